"""Parses names of models on the hub: repository, revision and GGUF file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pomona.errors import ModelNotFoundError, ModelUnsupportedError

_ID = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(@(?P<revision>\w[\w./-]*))?(:(?P<file>\w[\w./-]*))?",
    re.ASCII,
)
MAX_CHARACTERS = 512
"""Maximum length of a hub id. The hub's own names have at most 96 characters."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0")
"""Preferred quantizations of a repository with several GGUF files, in this order."""


@dataclass(frozen=True, slots=True)
class HubId:
    """Attributes:
    name: ``owner/name``.
    revision: commit, branch or tag; empty for the newest.
    file: GGUF file of the repository, or a quantization in its name like ``Q4_0``; empty for
        a repository of safetensors, or the preferred quantization.
    """

    name: str
    revision: str = ""
    file: str = ""

    @property
    def commit(self) -> str:
        """The revision if it is a full commit hash, which is immutable; else empty."""
        return self.revision if _COMMIT.fullmatch(self.revision) else ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.name}{revision}{f':{self.file}' if self.file else ''}"


def parse_hub_id(source: str) -> HubId | None:
    """Parses ``owner/name``, ``owner/name@revision``, ``owner/name:file.gguf`` or
    ``owner/name@revision:Q4_0``. Returns None for anything else."""
    found = _ID.fullmatch(source) if len(source) <= MAX_CHARACTERS else None
    if found is None or ".." in source.replace(":", "/").replace("@", "/").split("/"):
        return None
    return HubId(found["name"], found["revision"] or "", found["file"] or "")


def is_hub_id(source: str) -> bool:
    return parse_hub_id(source) is not None


def choose_gguf_file(files: Iterable[str], selector: str) -> str:
    """Returns the GGUF file with this path or quantization, or the preferred one.

    Raises ModelError naming the available files.
    """
    available = sorted(x for x in files if x.endswith(".gguf") and "mmproj" not in x)
    listed = ", ".join(available[:20]) or "none"
    found = available
    if selector.endswith(".gguf"):
        found = [x for x in available if selector in (x, x.rpartition("/")[2])]
    elif selector:
        found = _with_quantization(available, selector)
    elif len(available) > 1:
        found = next(
            (x for kind in _PREFERRED if (x := _with_quantization(available, kind))), available
        )
    if not found:
        raise ModelNotFoundError(f"{selector or 'a GGUF file'} is not there; GGUF files: {listed}")
    if all(_PART.search(x) for x in found):
        raise ModelUnsupportedError(
            f"{found[0]} is one part of a split file, which cannot be read; join the parts with "
            "llama.cpp's gguf-split --merge and name that file, or use safetensors"
        )
    if len(found) > 1:
        raise ModelNotFoundError(
            f"the choice of a GGUF file is ambiguous; name one after a colon: {listed}"
        )
    return found[0]


def _with_quantization(files: list[str], quantization: str) -> list[str]:
    pattern = re.compile(
        rf"(^|[./_-]){re.escape(quantization)}(-\d{{5}}-of-\d{{5}})?\.gguf$", re.IGNORECASE
    )
    return [x for x in files if pattern.search(x)]
