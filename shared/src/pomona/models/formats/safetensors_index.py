"""Locates each tensor in a folder of safetensors from the files' headers.

A file is an 8-byte little-endian length, a JSON header of that length, then the tensor data
(https://huggingface.co/docs/safetensors). An index file may name the file of each tensor; without
one, all files are read.
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
"""Limit of the safetensors format."""
LENGTH_BYTES = 8
MAX_TENSORS = 1 << 18
"""Maximum number of tensors in one file."""
MAX_FILES = 1 << 12
MAX_SHOWN = 128
"""Maximum characters of a file's own text in an error message."""
MAX_DIMENSIONS = 8
MAX_DIMENSION = 2**40
MAX_JSON_BYTES = 64 << 20
"""Maximum size of a JSON file of a model. The index of the largest models has 20 MB."""
_EXECUTABLE = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
"""Formats that may execute code when they are read."""

_DTYPE_BITS = {
    "F4": 4, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16,
    "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64,
    "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Location of a tensor's data.

    Attributes:
        begin, end: byte range in the file, end excluded.
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
    """Reads a JSON object. Raises ModelError naming the file when it is missing or not valid."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path} has more than {MAX_JSON_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} is missing") from error
    except RecursionError as error:
        raise ModelError(f"{path} cannot be read as JSON: it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object; fetch it again")
    return cast("dict[str, Any]", content)


def read_tensor_places(folder: Path) -> dict[str, TensorPlace]:
    """Locates every tensor of a model by name. Raises ModelError naming file and tensor."""
    tensor_files = read_index(folder)
    places: dict[str, TensorPlace] = {}
    for file in weight_files(folder, tensor_files):
        if not file.is_file():
            tensor = next(name for name, holder in tensor_files.items() if holder == file.name)
            raise ModelNotFoundError(f"{file} is missing; it holds {tensor} and more: fetch it")
        places |= read_header(file)
    for tensor, holder in tensor_files.items():
        if tensor not in places:
            raise ModelError(f"{folder / holder} lacks the tensor {tensor} that the index lists")
    return places


def read_index(folder: Path) -> dict[str, str]:
    """Returns the file of each tensor from the folder's index; empty without an index."""
    path = folder / INDEX_NAME
    if not path.is_file():
        return {}
    named = read_json(path).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelError(f"{path} has no weight_map; fetch it again")
    for name in cast("dict[str, Any]", named).values():
        if not isinstance(name, str) or Path(name).name != name:
            shown = repr(name)[:MAX_SHOWN]
            raise ModelError(f"{path} names the file {shown}, which is outside its folder")
    return cast("dict[str, str]", named)


def weight_files(folder: Path, tensor_files: Mapping[str, str]) -> list[Path]:
    """Returns the files of the index, else ``model*.safetensors``, else ``*.safetensors``."""
    if tensor_files:
        files = [folder / name for name in sorted(set(tensor_files.values()))]
    else:
        files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if len(files) > MAX_FILES:
        raise ModelError(f"{folder} has {len(files)} weight files; at most {MAX_FILES} may be")
    if not files:
        other = sorted(x.name for x in folder.iterdir() if x.suffix in _EXECUTABLE)
        why = f"; {other[0]} may hold code and is never opened: convert it" if other else ""
        raise ModelNotFoundError(f"{folder} has no safetensors file{why}")
    return files


def read_header(path: Path) -> dict[str, TensorPlace]:
    """Reads the header of one file. Raises ModelError when it is damaged or truncated."""
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
    """Decodes the header length from the file's first eight bytes."""
    length = int.from_bytes(first_bytes, "little")
    if len(first_bytes) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise ModelError(f"{path} is damaged: {length} is not a valid header length")
    return length


def parse_header(path: Path, content: bytes) -> dict[str, TensorPlace]:
    """Parses the JSON header that follows the file's first eight bytes."""
    data_start = LENGTH_BYTES + len(content)
    places: dict[str, TensorPlace] = {}
    if content.count(b"{") > MAX_TENSORS:
        raise ModelError(f"{path} has more than {MAX_TENSORS} tensors")
    try:
        header = cast("dict[str, dict[str, Any]]", json.loads(content))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            begin, end = tensor["data_offsets"]
            shape = tuple(tensor["shape"])
            dtype = tensor["dtype"]
            if not isinstance(dtype, str) or len(dtype) > MAX_SHOWN:
                raise TypeError
            place = TensorPlace(path, dtype, shape, data_start + begin, data_start + end)
            _check_place(place, data_start)
            bits = _DTYPE_BITS.get(place.dtype)
            if bits is not None and place.elements * bits // 8 != place.stored_bytes:
                raise ModelError(
                    f"{path} is damaged: tensor {name} of shape {shape} and type {place.dtype} "
                    f"has {place.stored_bytes} bytes"
                )
            places[name] = place
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: its header cannot be read") from error
    _check_overlaps(path, places)
    return places


def _check_place(place: TensorPlace, data_start: int) -> None:
    """Raises TypeError or ValueError for values that no tensor has."""
    if not all(type(x) is int for x in (*place.shape, place.begin, place.end)):
        raise TypeError
    sizes_fit = all(0 <= size <= MAX_DIMENSION for size in place.shape)
    if not sizes_fit or len(place.shape) > MAX_DIMENSIONS:
        raise ValueError
    if not data_start <= place.begin <= place.end:
        raise ValueError


def _check_overlaps(path: Path, places: Mapping[str, TensorPlace]) -> None:
    """Raises ModelError when the data of two tensors overlap, which the format forbids."""
    before, last = 0, ""
    for begin, end, name in sorted((x.begin, x.end, name) for name, x in places.items()):
        if begin < before and begin < end:
            raise ModelError(
                f"{path} is damaged: the tensors {last[:MAX_SHOWN]} and {name[:MAX_SHOWN]} overlap"
            )
        if end > before:
            before, last = end, name
