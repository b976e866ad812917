"""The Hugging Face hub as a keeper of models.

Endpoint (``HF_ENDPOINT``), token and offline mode are those of huggingface_hub, from its
usual places. A token is never part of a message or a log.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pomona.errors import ModelError, ModelNotFoundError, ModelUnsupportedError
from pomona.models.store.hub_id import HubId, parse_hub_id
from pomona.models.store.remote_source import Manifest, Range, RemoteFile

DEADLINE_S = 60.0
"""For one answer of the hub, seconds."""


class HubSource:
    """Reads files of the hub by ranges, so that a fetch that broke off goes on where it was."""

    name = "the hub"

    def __init__(self) -> None:
        self._endpoint = os.environ.get("HF_ENDPOINT") or None

    def manifest(self, source: str) -> Manifest:
        """The files of ``source`` at its newest commit, or that of its revision."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        asked = _named(source)
        api = HfApi(endpoint=self._endpoint)
        with _explained(source):
            info = api.model_info(asked.name, revision=asked.revision or "main", timeout=DEADLINE_S)
            commit = str(info.sha)
            entries = list(api.list_repo_tree(asked.name, recursive=True, revision=commit))
        files = {
            entry.path: RemoteFile(
                entry.lfs.size if entry.lfs else entry.size, entry.lfs.sha256 if entry.lfs else ""
            )
            for entry in entries
            if isinstance(entry, RepoFile)
        }
        return Manifest(source, commit, files)

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        return [(0, manifest.files[file].size)]

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        if begin == end:
            return b""
        name = _named(manifest.source).name
        url = hf_hub_url(name, file, revision=manifest.version, endpoint=self._endpoint)
        headers = {**build_hf_headers(), "range": f"bytes={begin}-{end - 1}"}
        # Bytes as stored: a range of something compressed on the way would be another one.
        headers["accept-encoding"] = "identity"
        with _explained(f"{name}: {file}"):
            answer = http_backoff(
                "GET", url, headers=headers, timeout=DEADLINE_S, follow_redirects=True
            )
            hf_raise_for_status(answer)
            content = bytes(answer.content)
        if answer.status_code == 200 and len(content) > end - begin:
            content = content[begin:end]
        if len(content) != end - begin:
            raise ModelError(
                f"{name}: {file}: {len(content)} bytes came instead of {end - begin}; try again"
            )
        return content

    def cached(self, manifest: Manifest, file: str) -> Path | None:
        """The file in the cache that huggingface_hub keeps, when it is there whole."""
        from huggingface_hub import try_to_load_from_cache

        name = _named(manifest.source).name
        found = try_to_load_from_cache(name, file, revision=manifest.version)
        return Path(found) if isinstance(found, str) else None


def _named(source: str) -> HubId:
    named = parse_hub_id(source)
    if named is None:
        raise ModelNotFoundError(f"{source} is no name on the hub, such as owner/name")
    return named


class _explained:
    """Turns what huggingface_hub raises into a ModelError that says what to do."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, _: object) -> None:
        if error is None or isinstance(error, ModelError) or not isinstance(error, Exception):
            return
        status = getattr(getattr(error, "response", None), "status_code", None)
        name = type(error).__name__
        if name == "GatedRepoError":
            raise ModelUnsupportedError(
                f"{self._what} is gated: accept its licence on the hub, and set HF_TOKEN"
            ) from error
        if status in (401, 403):
            raise ModelNotFoundError(
                f"{self._what} is not on the hub, or is private: check the name, or set HF_TOKEN"
            ) from error
        if status == 404 or name in ("RepositoryNotFoundError", "EntryNotFoundError"):
            raise ModelNotFoundError(f"{self._what} is not on the hub: check the name") from error
        answered = f"answered {status}" if status else f"cannot be reached ({name})"
        raise ModelError(
            f"{self._what}: the hub {answered}; check the network and HF_ENDPOINT"
        ) from error
