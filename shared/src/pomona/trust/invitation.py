"""The text of an invitation: where the head is, which key it has, and a secret. Pure.

``pom1-`` and base32 of these bytes: hash of the head's public key (16), secret (16), number of
addresses (1), addresses, CRC-32 of all before it (4). An address is a kind (1), an IPv4 address
(4) or a length (1) and a host name, and a port (2), big-endian.

The joiner compares the hash with the key that answers, before it sends the secret.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
import secrets
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from pomona.errors import ConfigurationError
from pomona.trust import signing

PREFIX: Final = "pom1-"
HASH_BYTES: Final = 16
SECRET_BYTES: Final = 16
MAX_ADDRESSES: Final = 8
MAX_HOST_CHARACTERS: Final = 200
MAX_CHARACTERS: Final = 4096
_IPV4: Final = 4
_NAME: Final = 0
_HOST: Final = re.compile(r"^[A-Za-z0-9._-]{1,200}$")


class InvitationError(ConfigurationError):
    """The text is not an invitation. The message says how to get one."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Permission to join a cluster, good once.

    Attributes:
        addresses: (host, port) at which the head takes new nodes, best first.
        key_hash: of the head's public key; see :func:`key_hash`.
        secret: proof of the invitation.
    """

    addresses: tuple[tuple[str, int], ...]
    key_hash: bytes
    secret: bytes

    def is_key(self, public_key: str) -> bool:
        """Tests whether a public key belongs to the head that invited."""
        return hmac.compare_digest(self.key_hash, key_hash(public_key))


def key_hash(public_key: str) -> bytes:
    """Returns the hash of a public key (hexadecimal) that an invitation carries."""
    return bytes.fromhex(signing.key_hash(public_key))[:HASH_BYTES]


def new_secret() -> bytes:
    """Returns a random secret."""
    return secrets.token_bytes(SECRET_BYTES)


def encode_invitation(invitation: Invitation) -> str:
    """Returns the text of an invitation. Raises InvitationError for addresses that do not fit."""
    if not 1 <= len(invitation.addresses) <= MAX_ADDRESSES:
        raise InvitationError(f"an invitation has 1 to {MAX_ADDRESSES} addresses")
    packed = b"".join(_pack_address(host, port) for host, port in invitation.addresses)
    content = invitation.key_hash + invitation.secret + bytes([len(invitation.addresses)]) + packed
    content += struct.pack(">I", zlib.crc32(content))
    return PREFIX + base64.b32encode(content).decode().rstrip("=").lower()


def decode_invitation(text: str) -> Invitation:
    """Parses an invitation. White space around and within it is ignored. Raises InvitationError."""
    text = "".join(text.split()) if len(text) <= MAX_CHARACTERS else ""
    if not text.lower().startswith(PREFIX):
        newer = re.match(r"^pom\d+-", text.lower())
        raise InvitationError(
            "this invitation is of another version of Pomona; install the head's version here"
            if newer
            else f"this is not an invitation: one begins with {PREFIX}; `pomona invite` on the "
            "head prints it"
        )
    body = text[len(PREFIX) :].upper()
    try:
        content = base64.b32decode(body + "=" * (-len(body) % 8))
        if struct.unpack(">I", content[-4:])[0] != zlib.crc32(content[:-4]):
            raise ValueError("checksum")
        return _unpack(content[:-4])
    except (binascii.Error, ValueError, struct.error, IndexError, UnicodeError) as error:
        raise InvitationError(
            "this invitation is incomplete or mistyped: copy the whole line that "
            "`pomona invite` printed"
        ) from error


def _unpack(content: bytes) -> Invitation:
    begin = HASH_BYTES + SECRET_BYTES
    count, rest = content[begin], content[begin + 1 :]
    addresses: list[tuple[str, int]] = []
    for _ in range(count):
        host, port, rest = _unpack_address(rest)
        addresses.append((host, port))
    if rest or not 1 <= count <= MAX_ADDRESSES:
        raise ValueError("length")
    return Invitation(tuple(addresses), content[:HASH_BYTES], content[HASH_BYTES:begin])


def _pack_address(host: str, port: int) -> bytes:
    try:
        packed = bytes([_IPV4]) + ipaddress.IPv4Address(host).packed
    except ValueError:
        if not _HOST.match(host):
            raise InvitationError(f"{host} is not an IPv4 address or a host name") from None
        packed = bytes([_NAME, len(host)]) + host.encode()
    return packed + struct.pack(">H", port)


def _unpack_address(content: bytes) -> tuple[str, int, bytes]:
    if content[0] == _IPV4:
        host, rest = str(ipaddress.IPv4Address(content[1:5])), content[5:]
    elif content[0] == _NAME:
        host, rest = content[2 : 2 + content[1]].decode(), content[2 + content[1] :]
        if not _HOST.match(host):
            raise ValueError("host")
    else:
        raise ValueError("kind")
    port = struct.unpack(">H", rest[:2])[0]
    if not port:
        raise ValueError("port")
    return host, port, rest[2:]
