"""Inflates request bodies in gzip or deflate as they arrive, never beyond a limit."""

from __future__ import annotations

import zlib
from typing import Protocol

from pomona.errors import RequestError

_GZIP_BITS = 16 + zlib.MAX_WBITS
_ZLIB_METHOD = 8
"""Low half of the first byte of zlib's format; some clients send deflate without it."""


class Inflater(Protocol):
    """Inflates one body."""

    def inflate(self, data: bytes, limit: int) -> bytes:
        """Returns the next bytes of the body, at most ``limit``, which is at least 1.

        A result of ``limit`` bytes may be incomplete. Raises RequestError for invalid data.
        """
        ...

    def end(self) -> None:
        """Raises RequestError when the body is not complete."""
        ...


class Identity:
    """A body that is not compressed."""

    def inflate(self, data: bytes, limit: int) -> bytes:
        """Returns the data."""
        return data

    def end(self) -> None:
        """Does nothing: HTTP itself says where the body ends."""


class Deflated:
    """A body in gzip or deflate."""

    def __init__(self, is_gzip: bool) -> None:
        self._gzip = is_gzip
        self._stream = None

    def inflate(self, data: bytes, limit: int) -> bytes:
        """Inflates more data."""
        if not data:
            return b""
        out = bytearray()
        try:
            while data and len(out) < limit:
                if self._stream is None:
                    self._stream = zlib.decompressobj(self._window_bits(data))
                out += self._stream.decompress(data, limit - len(out))
                if not self._stream.eof:
                    break
                # A gzip file may have several members.
                data, self._stream = self._stream.unused_data, None
        except zlib.error as error:
            raise self._invalid(str(error)) from error
        return bytes(out)

    def end(self) -> None:
        """Raises RequestError when the data ends inside a member."""
        if self._stream is not None:
            raise self._invalid("it is not complete")

    def _window_bits(self, data: bytes) -> int:
        if self._gzip:
            return _GZIP_BITS
        is_zlib = data[0] & 0x0F == _ZLIB_METHOD
        return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS

    def _invalid(self, reason: str) -> RequestError:
        name = "gzip" if self._gzip else "deflate"
        return RequestError(400, "invalid_encoding", f"the body is not valid {name}: {reason}")


def inflater(encoding: str) -> Inflater:
    """Returns the inflater for a ``content-encoding``. Raises RequestError for an unknown one."""
    match encoding.strip().lower():
        case "" | "identity":
            return Identity()
        case "gzip" | "x-gzip":
            return Deflated(is_gzip=True)
        case "deflate":
            return Deflated(is_gzip=False)
        case _:
            message = (
                f"the content encoding {encoding!r} is not supported; send the body as gzip, "
                "deflate or uncompressed"
            )
            raise RequestError(415, "unsupported_content_encoding", message)
