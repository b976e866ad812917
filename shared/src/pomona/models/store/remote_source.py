"""Who may have a model, and what they say of it: the hub, or a peer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Range = tuple[int, int]
"""Begin and end of bytes in a file."""

_SMALL = re.compile(
    r"[^/]+\.(json|jinja|txt|model|tiktoken)|additional_chat_templates/[^/]+\.jinja"
    r"|\d+_Pooling/config\.json"
)
_SMALL_LIMIT = 128 << 20
_WEIGHTS = re.compile(r"[^/]+\.safetensors|((?!\.\.?/)[^/]+/)*[^/]+\.gguf")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a model. ``sha256`` is empty where its keeper does not know it."""

    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model's keeper has.

    Attributes:
        version: names the state of all files: a commit of the hub, or a digest.
    """

    source: str
    version: str
    files: Mapping[str, RemoteFile]


class RemoteSource(Protocol):
    """Somebody who has a model, or parts of it: the hub or a peer."""

    name: str

    def manifest(self, source: str) -> Manifest:
        """Raises ModelError when it does not have the model, or cannot be reached."""
        ...

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        """The ranges of the file that it has; none when it cannot be reached."""
        ...

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        """The bytes, checked. Raises ModelError when it does not have them."""
        ...


def is_small_file(name: str, size: int) -> bool:
    """Whether the file is read whole: configuration, tokenizer, templates."""
    return _SMALL.fullmatch(name) is not None and size <= _SMALL_LIMIT


def is_weight_file(name: str) -> bool:
    """Whether the file holds weights. GGUF files may lie in a folder of their repository."""
    return _WEIGHTS.fullmatch(name) is not None
