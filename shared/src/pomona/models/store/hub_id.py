"""Names of models on the hub: ``owner/name``, a revision of it, a GGUF file in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pomona.errors import ModelNotFoundError, ModelUnsupportedError

_ID = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(@(?P<revision>\w[\w./-]*))?(:(?P<file>\w[\w./-]*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_USUAL = ("Q4_K_M", "Q4_0", "Q8_0")
"""Taken, in this order, where a repository holds several files and none is named."""


@dataclass(frozen=True, slots=True)
class HubId:
    """Attributes:
    name: ``owner/name``.
    revision: a commit, a branch or a tag; empty for the newest.
    file: a GGUF file of the repository, or a quantisation that its name tells, such as
        ``Q4_0``; empty when it is a repository of safetensors, or for the usual one.
    """

    name: str
    revision: str = ""
    file: str = ""

    @property
    def commit(self) -> str:
        """The commit that is named, if one is: it never becomes another."""
        return self.revision if _COMMIT.fullmatch(self.revision) else ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.name}{revision}{f':{self.file}' if self.file else ''}"


def parse_hub_id(source: str) -> HubId | None:
    """``owner/name``, ``owner/name@revision``, ``owner/name:file.gguf``,
    ``owner/name@revision:Q4_0``; None for anything else."""
    found = _ID.fullmatch(source)
    if found is None:
        return None
    return HubId(found["name"], found["revision"] or "", found["file"] or "")


def is_hub_id(source: str) -> bool:
    return parse_hub_id(source) is not None


def choose_gguf_file(files: Iterable[str], asked: str) -> str:
    """The GGUF file that ``asked`` means: its path, or its quantisation.

    Raises ModelError naming the files there are.
    """
    there = sorted(x for x in files if x.endswith(".gguf") and "mmproj" not in x)
    listed = ", ".join(there[:20]) or "none"
    found = there
    if asked.endswith(".gguf"):
        found = [x for x in there if asked in (x, x.rpartition("/")[2])]
    elif asked:
        found = _of_kind(there, asked)
    elif len(there) > 1:
        found = next((x for kind in _USUAL if (x := _of_kind(there, kind))), there)
    if not found:
        raise ModelNotFoundError(f"{asked or 'a GGUF file'} is not there; GGUF files: {listed}")
    if all(_PART.search(x) for x in found):
        raise ModelUnsupportedError(
            f"{found[0]} is one part of a split file, which cannot be read; join the parts with "
            "llama.cpp's gguf-split --merge and name that file, or use safetensors"
        )
    if len(found) > 1:
        raise ModelNotFoundError(
            f"several GGUF files could be meant; name one after a colon: {listed}"
        )
    return found[0]


def _of_kind(files: list[str], kind: str) -> list[str]:
    told = re.compile(rf"(^|[./_-]){re.escape(kind)}(-\d{{5}}-of-\d{{5}})?\.gguf$", re.IGNORECASE)
    return [x for x in files if told.search(x)]
