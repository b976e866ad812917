"""Interface of the remote sources from which a model is fetched: the hub, or a peer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pomona.errors import ModelError

Range = tuple[int, int]
"""Begin and end of a byte range in a file, end excluded."""

_SMALL_FILES = re.compile(
    r"[^/]+\.(json|jinja|txt|model|tiktoken)|additional_chat_templates/[^/]+\.jinja"
    r"|\d+_Pooling/config\.json"
)
_MAX_SMALL_FILE_BYTES = 128 << 20
_WEIGHT_FILES = re.compile(r"[^/]+\.safetensors|((?!\.\.?/)[^/]+/)*[^/]+\.gguf")


MAX_FILES = 65_536
"""Maximum number of files of a model."""
MAX_PATH = 1024
"""Maximum length of a file's path in characters."""
MAX_FILE_BYTES = 1 << 46
"""Maximum size of a file."""
MAX_SMALL_BYTES = 1 << 30
"""Maximum size of a model's small files together."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a model. ``sha256`` is empty when the source does not know it."""

    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Files of one version of a model.

    Attributes:
        source: name of the model.
        version: identity of the content: a commit of the hub, or a digest.
        files: size and hash by path.
    """

    source: str
    version: str
    files: Mapping[str, RemoteFile]


def check_manifest(manifest: Manifest) -> Manifest:
    """Returns a manifest that holds to the limits. Raises ModelError for any other."""
    if len(manifest.files) > MAX_FILES:
        raise ModelError(f"{manifest.source} has more than {MAX_FILES} files")
    small = 0
    for name, file in manifest.files.items():
        if len(name) > MAX_PATH or not 0 <= file.size <= MAX_FILE_BYTES:
            raise ModelError(
                f"{manifest.source} has a file with a path of {len(name)} characters and "
                f"{file.size} bytes; at most {MAX_PATH} and {MAX_FILE_BYTES} are read"
            )
        small += file.size if is_small_file(name, file.size) else 0
    if small > MAX_SMALL_BYTES:
        raise ModelError(f"{manifest.source} has {small} bytes beside its weights")
    return manifest


class RemoteSource(Protocol):
    """A place that holds a model, whole or in part."""

    name: str

    def manifest(self, source: str) -> Manifest:
        """Lists a model's files. Raises ModelError when it is missing or unreachable."""
        ...

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        """Returns the ranges of a file that the source holds; none when it is unreachable."""
        ...

    def header_bytes(self, manifest: Manifest, file: str) -> int:
        """Returns the length of a weight file's header; 0 when the source does not know it."""
        ...

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        """Reads and verifies a range. Raises ModelError when the source does not have it."""
        ...


def is_small_file(name: str, size: int) -> bool:
    """Tests for a file that is always fetched whole: configuration, tokenizer, template."""
    return _SMALL_FILES.fullmatch(name) is not None and size <= _MAX_SMALL_FILE_BYTES


def is_weight_file(name: str) -> bool:
    """Tests for a weight file. GGUF files may be in a subfolder of their repository."""
    return _WEIGHT_FILES.fullmatch(name) is not None
