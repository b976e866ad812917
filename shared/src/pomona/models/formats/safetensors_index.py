"""Where each tensor of a folder of safetensors lies, from the files' headers alone.

The format is 8 bytes little-endian length, then a header in JSON, then the tensors
(https://huggingface.co/docs/safetensors). A folder of several files may have an index that
names the file of each tensor; without one, all files count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

from pomona.errors import ModelError, ModelNotFoundError

INDEX_NAME = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100 << 20
"""The safetensors format allows no longer header."""
LENGTH_BYTES = 8
_EXECUTABLE = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
"""Formats whose reading may run what is in them."""

_DTYPE_BITS = {
    "F4": 4, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16,
    "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64,
    "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor of a safetensors file.

    Attributes:
        begin, end: its bytes in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def stored_bytes(self) -> int:
        return self.end - self.begin

    @property
    def elements(self) -> int:
        return prod(self.shape)


def read_json(path: Path) -> dict[str, Any]:
    """Raises ModelError naming the file when it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object")
    return cast("dict[str, Any]", content)


def read_tensor_places(folder: Path) -> dict[str, TensorPlace]:
    """Every tensor of the model in ``folder``. Raises ModelError naming file and tensor."""
    named = read_index(folder)
    places: dict[str, TensorPlace] = {}
    for file in weight_files(folder, named):
        if not file.is_file():
            tensor = next(name for name, holder in named.items() if holder == file.name)
            raise ModelNotFoundError(f"{file} is missing; it holds {tensor} and more: fetch it")
        places |= read_header(file)
    for tensor, holder in named.items():
        if tensor not in places:
            raise ModelError(f"{folder / holder} lacks the tensor {tensor} that the index promises")
    return places


def read_index(folder: Path) -> dict[str, str]:
    """The file of each tensor as the folder's index names it; empty when it has none."""
    path = folder / INDEX_NAME
    if not path.is_file():
        return {}
    named = read_json(path).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelError(f"{path} has no weight_map; fetch it again")
    found = cast("dict[str, str]", named)
    for name in found.values():
        if Path(name).name != name:
            raise ModelError(f"{path} names the file {name!r}, which is outside its folder")
    return found


def weight_files(folder: Path, named: Mapping[str, str]) -> list[Path]:
    """The files that hold the weights: those of the index, else ``model*.safetensors``, else
    all of the folder."""
    if named:
        return [folder / name for name in sorted(set(named.values()))]
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not files:
        other = sorted(x.name for x in folder.iterdir() if x.suffix in _EXECUTABLE)
        why = f"; {other[0]} may hold code and is never opened: convert it" if other else ""
        raise ModelNotFoundError(f"{folder} holds no safetensors file{why}")
    return files


def read_header(path: Path) -> dict[str, TensorPlace]:
    """The tensors of one file. Raises ModelError when it is damaged or cut short."""
    with path.open("rb") as file:
        length = header_length(path, file.read(LENGTH_BYTES))
        places = parse_header(path, file.read(length))
    size = path.stat().st_size
    end = max((place.end for place in places.values()), default=LENGTH_BYTES + length)
    if size < end:
        first = min((x.end, name) for name, x in places.items() if x.end > size)[1]
        raise ModelError(
            f"{path} is cut short: {end - size} bytes are missing, from tensor {first} on; "
            "fetch it again"
        )
    return places


def header_length(path: Path, first_bytes: bytes) -> int:
    """The length of the header, from the file's first eight bytes."""
    length = int.from_bytes(first_bytes, "little")
    if len(first_bytes) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise ModelError(f"{path} is damaged: its header of {length} bytes cannot be")
    return length


def parse_header(path: Path, content: bytes) -> dict[str, TensorPlace]:
    """The tensors that a header, which follows the file's first eight bytes, describes."""
    begins = LENGTH_BYTES + len(content)
    places: dict[str, TensorPlace] = {}
    try:
        header = cast("dict[str, dict[str, Any]]", json.loads(content))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            begin, end = tensor["data_offsets"]
            shape = tuple(int(size) for size in tensor["shape"])
            place = TensorPlace(path, str(tensor["dtype"]), shape, begins + begin, begins + end)
            bits = _DTYPE_BITS.get(place.dtype)
            if bits is not None and place.elements * bits // 8 != place.stored_bytes:
                raise ModelError(
                    f"{path} is damaged: tensor {name} of shape {shape} and type {place.dtype} "
                    f"has {place.stored_bytes} bytes"
                )
            places[name] = place
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: its header cannot be read") from error
    return places
