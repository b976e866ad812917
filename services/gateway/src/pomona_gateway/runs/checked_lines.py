"""Lines of JSON with a checksum, by which a cut off or damaged one is noticed. Pure.

A line is a CRC-32 as 8 hexadecimal digits, a space and a JSON object.
"""

from __future__ import annotations

import zlib
from typing import Any, cast

import orjson
from pydantic_core import from_json, to_json


def encode_line(fields: dict[str, Any]) -> bytes:
    """Encodes an object. Integers past 64 bits, which only an echoed schema has, are allowed."""
    try:
        content = orjson.dumps(fields)
    except TypeError:
        content = to_json(fields)
    return f"{zlib.crc32(content):08x} ".encode() + content + b"\n"


def decode_line(line: bytes) -> dict[str, Any] | None:
    """Returns the object of a line; None when the line is damaged."""
    checksum, _, content = line[:-1].partition(b" ")
    if not line.endswith(b"\n") or checksum != f"{zlib.crc32(content):08x}".encode():
        return None
    try:
        value = from_json(content)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
