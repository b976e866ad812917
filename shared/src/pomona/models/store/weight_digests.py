"""Digests of a model's files, by which a stage worker checks what its peers send.

A weight file is divided into segments: its header, and each tensor in pieces of at most
SEGMENT_BYTES. Stages fetch whole tensors, so they fetch whole segments. Every other file is one
segment. The table lists the SHA-256 of each segment; the plan carries the digest of the table.

SHA-256 is the fastest secure hash of the standard library where processors compute it in hardware:
1.2 GB/s on one x86 core, against 0.6 GB/s of BLAKE2b.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Final

import orjson
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from pomona.errors import ModelError
from pomona.models.store.remote_source import MAX_FILE_BYTES, Range

SEGMENT_BYTES: Final = 8 << 20
MAX_TABLE_BYTES: Final = 64 << 20
MAX_SEGMENTS: Final = 1 << 20
"""Segments of one file."""

_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Offset = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]

Segment = tuple[_Offset, _Offset, _Digest]
"""Begin and end of a byte range, end excluded, and its SHA-256."""


@dataclass(frozen=True, slots=True)
class FileDigests:
    """Attributes:
    size: length of the file in bytes.
    segments: segments with a known digest, in order, without overlaps.
    """

    size: _Offset
    segments: Annotated[tuple[Segment, ...], Field(max_length=MAX_SEGMENTS)]

    def overlapping(self, begin: int, end: int) -> list[Segment]:
        """Returns the segments that share a byte with a range."""
        first = max(0, bisect_right(self.segments, begin, key=lambda segment: segment[0]) - 1)
        found: list[Segment] = []
        for segment in self.segments[first:]:
            if segment[0] >= end:
                break
            if segment[1] > begin:
                found.append(segment)
        return found

    def covers(self, begin: int, end: int) -> bool:
        """Tests whether the digest of every byte of a range is known."""
        at = begin
        for segment in self.overlapping(begin, end):
            if segment[0] > at:
                return False
            at = segment[1]
        return at >= end


@dataclass(frozen=True, slots=True)
class DigestTable:
    """Digests of one version of a model. The table of a sparse copy covers what the copy holds.

    Attributes:
        version: the version of the model's manifest.
        files: digests by the path of each file.
    """

    version: str
    files: Mapping[str, FileDigests]

    def digest(self) -> str:
        """Returns the digest that the plan carries."""
        return hashlib.sha256(encode_table(self)).hexdigest()


_TABLES = TypeAdapter(DigestTable)


def encode_table(table: DigestTable) -> bytes:
    return orjson.dumps(table, option=orjson.OPT_SORT_KEYS)


def decode_table(content: bytes, digest: str) -> DigestTable:
    """Reads the table with this digest. Raises ModelError for any other content."""
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelError("the table of digests is not the one of the plan")
    try:
        return _TABLES.validate_json(content)
    except ValidationError as error:
        raise ModelError("the table of digests is not valid") from error


def has_digest(content: bytes, begin: int, segment: Segment) -> bool:
    """Tests the part of ``content``, which starts at offset ``begin``, that a segment covers."""
    lower, upper, digest = segment
    part = memoryview(content)[lower - begin : upper - begin]
    return len(part) == upper - lower and hashlib.sha256(part).hexdigest() == digest


def split_by_segments(
    file: FileDigests, ranges: Sequence[Range], edges: Set[int], most: int
) -> tuple[list[Range], list[Range]]:
    """Divides missing ranges into pieces that can be checked, and the rest.

    Args:
        edges: offsets at which a new piece begins if a segment begins there.
        most: largest piece in bytes, unless one segment is larger.

    Returns:
        Pieces of whole segments, which may begin before and end after a range, and the ranges
        without a digest.
    """
    pieces: list[Range] = []
    rest: list[Range] = []
    done = 0
    for begin, end in ranges:
        at = max(begin, done)
        for lower, upper, _ in file.overlapping(begin, end):
            if upper <= done:
                continue
            if lower > at:
                rest.append((at, lower))
            last = pieces[-1] if pieces else None
            joins = last is not None and last[1] == lower and lower not in edges
            if joins and last is not None and upper - last[0] <= most:
                pieces[-1] = (last[0], upper)
            else:
                pieces.append((lower, upper))
            at = done = upper
        if at < end:
            rest.append((at, end))
    return pieces, rest
