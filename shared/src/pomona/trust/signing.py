"""Key pairs and signatures: Ed25519 (RFC 8032) for clusters, Curve25519 (RFC 7748) for nodes.

All keys and signatures are lower-case hexadecimal. PyNaCl is imported at the first use, because
that takes 40 ms, and a service that only reads its own files needs none.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from typing import Final

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
ID_BYTES: Final = 10


def new_curve_keys() -> tuple[str, str]:
    """Returns a new public and secret key for Curve25519."""
    from nacl.public import PrivateKey

    secret = PrivateKey.generate()
    return bytes(secret.public_key).hex(), bytes(secret).hex()


def new_signing_key() -> str:
    """Returns a new secret key (the seed) for Ed25519."""
    from nacl.signing import SigningKey

    return bytes(SigningKey.generate()).hex()


def public_signing_key(secret: str) -> str:
    """Returns the public key of an Ed25519 secret key."""
    from nacl.signing import SigningKey

    return bytes(SigningKey(bytes.fromhex(secret)).verify_key).hex()


def sign(secret: str, message: bytes) -> str:
    """Signs a message with an Ed25519 secret key."""
    from nacl.signing import SigningKey

    return SigningKey(bytes.fromhex(secret)).sign(message).signature.hex()


def is_signed(public: str, message: bytes, signature: str) -> bool:
    """Verifies a signature. A malformed key or signature is not valid."""
    from nacl.exceptions import CryptoError
    from nacl.signing import VerifyKey

    try:
        VerifyKey(bytes.fromhex(public)).verify(message, bytes.fromhex(signature))
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def short_id(public: str) -> str:
    """Returns the identity of a public key: 16 characters of base32, 80 bits of its SHA-256."""
    digest = hashlib.sha256(bytes.fromhex(public)).digest()[:ID_BYTES]
    return b32encode(digest).decode("ascii").lower()


def key_hash(public: str) -> str:
    """Returns the whole SHA-256 of a public key, by which an invitation names the cluster's key."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()
