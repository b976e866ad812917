"""Six digits that two screens show, by which people compare two public keys. Pure.

The joining node commits to a nonce before it sees that of the head, and reveals it afterwards. An
attacker between the two, with keys of its own, has therefore one attempt in a million: it cannot
search for a nonce that gives the same digits. Source: S. Vaudenay, "Secure Communications over
Insecure Channels Based on Short Authenticated Strings", CRYPTO 2005.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

NONCE_BYTES: Final = 16
DIGITS: Final = 6


def new_nonce() -> bytes:
    """Returns a random nonce."""
    return secrets.token_bytes(NONCE_BYTES)


def commitment(public_key: str, nonce: bytes) -> bytes:
    """Returns the commitment of the owner of ``public_key`` to a nonce."""
    return hashlib.sha256(b"pomona commitment\0" + public_key.encode() + b"\0" + nonce).digest()


def is_committed(committed: bytes, public_key: str, nonce: bytes) -> bool:
    """Tests whether a revealed nonce matches a commitment."""
    return hmac.compare_digest(committed, commitment(public_key, nonce))


def digits(head_key: str, joiner_key: str, head_nonce: bytes, joiner_nonce: bytes) -> str:
    """Returns the six digits for two public keys (hexadecimal) and the nonces of both sides."""
    text = b"\0".join((b"pomona digits", head_key.encode(), joiner_key.encode()))
    digest = hashlib.sha256(text + b"\0" + head_nonce + joiner_nonce).digest()
    return f"{int.from_bytes(digest[:16], 'big') % 10**DIGITS:0{DIGITS}d}"


def grouped(text: str) -> str:
    """Returns the digits in groups of three, for people."""
    return f"{text[:3]} {text[3:]}"
