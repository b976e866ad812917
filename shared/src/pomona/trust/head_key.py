"""Asks a head for its public key, before anything is encrypted.

The key is public. A caller must know its hash, from an invitation, or compare digits.
"""

from __future__ import annotations

import re
import socket
from typing import Final

from pomona.errors import LinkError

KEY_QUESTION: Final = b"pomona-key 1\n"
_ANSWER: Final = re.compile(rb"^pomona-key 1 ([0-9a-f]{64})\n$")
_MAX_BYTES: Final = 256


def key_answer(public_key: str) -> bytes:
    """Returns the answer of a head with this public key (hexadecimal)."""
    return b"pomona-key 1 " + public_key.encode() + b"\n"


def ask_head_key(host: str, port: int, deadline_s: float) -> str:
    """Returns the public key that a head claims, hexadecimal.

    Raises LinkError when nothing answers, or not with a key.
    """
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=deadline_s) as connection:
            connection.sendall(KEY_QUESTION)
            while len(answer) < _MAX_BYTES and (part := connection.recv(_MAX_BYTES)):
                answer += part
    except OSError as error:
        raise LinkError(f"{host}:{port} does not answer: {error}") from error
    found = _ANSWER.match(answer)
    if found is None:
        raise LinkError(
            f"{host}:{port} is not a head that takes new nodes, or is too busy; try again"
        )
    return found[1].decode()
