"""The header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Metadata and the sizes of the tensors, without their bytes. A vocabulary of 50,000 tokens
is read in a tenth of a second, which the ``gguf`` package takes two for: every service
reads it when it starts.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pomona.errors import ModelError, ModelUnsupportedError

MAX_DIMENSIONS = 8

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor's name, its count of numbers, and its bytes in the file."""

    name: str
    elements: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata by key, as plain Python values, and the tensors."""

    fields: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises ModelError when the file is damaged."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(
            f"{path} cannot be read as GGUF ({error}): it is damaged or incomplete; "
            "copy or download it again"
        ) from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise ModelUnsupportedError(f"GGUF version {version} is not supported, only 2 and 3")
        tensor_count, field_count = self._number("<Q"), self._number("<Q")
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            key = self._string()
            fields[key] = self._value(self._number("<I"))
        return GgufHeader(fields, tuple(self._tensor() for _ in range(tensor_count)))

    def _tensor(self) -> GgufTensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self._string()
        dimensions = self._number("<I")
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"tensor {name} has {dimensions} dimensions")
        elements = prod(self._number("<Q") for _ in range(dimensions))
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("<I"))]
        self._number("<Q")
        return GgufTensor(name, elements, elements // block * block_bytes)

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise ValueError(f"it ends at {len(self._data)}, but {end} bytes are announced")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ValueError(f"there is no metadata type {kind}")
        return self._number(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, count = self._number("<I"), self._number("<Q")
        if kind == _STRING:
            return [self._string() for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"there is no array of metadata type {kind}")
        raw = self._take(struct.calcsize(_SCALARS[kind]) * count)
        return list(struct.unpack(f"<{count}{_SCALARS[kind][1]}", raw))
