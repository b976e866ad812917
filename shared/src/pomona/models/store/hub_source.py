"""Fetches models from the Hugging Face hub.

Endpoint (``HF_ENDPOINT``), token and offline mode are those of huggingface_hub. A token never
appears in a message or a log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pomona.errors import ModelError, ModelNotFoundError, ModelUnsupportedError
from pomona.models.store.hub_id import HubId, parse_hub_id
from pomona.models.store.remote_source import (
    MAX_FILES,
    Manifest,
    Range,
    RemoteFile,
    check_manifest,
)

DEADLINE_S = 60.0
"""Longest wait for the hub without receiving a byte, seconds."""
ATTEMPTS = 3
"""Number of times that a transfer is begun when it breaks off."""
TRANSFER_DEADLINE_S = 3600.0
"""Longest time of one answer, seconds."""


class HubSource:
    """Reads files of the hub by byte ranges, so that an interrupted fetch can resume."""

    name = "the hub"

    def __init__(self) -> None:
        self._endpoint = os.environ.get("HF_ENDPOINT") or None

    def manifest(self, source: str) -> Manifest:
        """Lists the files of ``source`` at its revision, or at the newest commit."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        hub_id = _require_hub_id(source)
        api = HfApi(endpoint=self._endpoint)
        with _hub_errors(source):
            info = api.model_info(
                hub_id.name, revision=hub_id.revision or "main", timeout=DEADLINE_S
            )
            commit = str(info.sha)
            tree = api.list_repo_tree(hub_id.name, recursive=True, revision=commit)
            entries = list(islice(tree, MAX_FILES + 1))
        files = {
            entry.path: RemoteFile(
                entry.lfs.size if entry.lfs else entry.size, entry.lfs.sha256 if entry.lfs else ""
            )
            for entry in entries
            if isinstance(entry, RepoFile)
        }
        return check_manifest(Manifest(source, commit, files))

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        return [(0, manifest.files[file].size)]

    def header_bytes(self, manifest: Manifest, file: str) -> int:
        return 0

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        if begin == end:
            return b""
        name = _require_hub_id(manifest.source).name
        url = hf_hub_url(name, file, revision=manifest.version, endpoint=self._endpoint)
        headers = {**build_hf_headers(), "range": f"bytes={begin}-{end - 1}"}
        # A range of a compressed transfer would not be a range of the file.
        headers["accept-encoding"] = "identity"
        with _hub_errors(f"{name}: {file}"):
            content = _download(url, headers, begin, end - begin)
        if len(content) != end - begin:
            raise ModelError(
                f"{name}: {file}: received {len(content)} bytes instead of {end - begin}; try again"
            )
        return content

    def cached(self, manifest: Manifest, file: str) -> Path | None:
        """Returns the file's path in huggingface_hub's own cache, if it is complete there."""
        from huggingface_hub import try_to_load_from_cache

        name = _require_hub_id(manifest.source).name
        found = try_to_load_from_cache(name, file, revision=manifest.version)
        return Path(found) if isinstance(found, str) else None


def _download(url: str, headers: dict[str, str], begin: int, size: int) -> bytes:
    """Downloads ``size`` bytes from ``begin`` on. Raises huggingface_hub's errors."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

    for left in reversed(range(ATTEMPTS)):
        try:
            with http_stream_backoff(
                "GET", url, headers=headers, timeout=DEADLINE_S, follow_redirects=True
            ) as response:
                hf_raise_for_status(response)
                # A server without ranges sends the whole file.
                skipped = begin if response.status_code == 200 else 0
                return _read(response.iter_bytes(), skipped, size)
        except (HfHubHTTPError, ModelError):
            raise
        except Exception:  # a transfer that breaks off raises errors of the HTTP library
            if not left:
                raise
    raise AssertionError


def _read(parts: Iterable[bytes], skipped: int, size: int) -> bytes:
    """Reads at most ``size`` bytes after the ``skipped`` ones, within the deadline.

    Raises:
        ModelError: the transfer takes too long.
    """
    until = time.monotonic() + TRANSFER_DEADLINE_S
    content = bytearray()
    for part in parts:
        content += part[skipped:]
        skipped = max(skipped - len(part), 0)
        if len(content) >= size:
            break
        if time.monotonic() > until:
            raise ModelError(f"the hub sent no {size} bytes within {TRANSFER_DEADLINE_S:g} s")
    return bytes(content[:size])


def _require_hub_id(source: str) -> HubId:
    hub_id = parse_hub_id(source)
    if hub_id is None:
        raise ModelNotFoundError(f"{source} is not a valid hub id, such as owner/name")
    return hub_id


class _hub_errors:
    """Converts errors of huggingface_hub into a ModelError that says what to do."""

    def __init__(self, subject: str) -> None:
        self._subject = subject

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, _: object) -> None:
        if error is None or isinstance(error, ModelError) or not isinstance(error, Exception):
            return
        status = getattr(getattr(error, "response", None), "status_code", None)
        name = type(error).__name__
        if name == "GatedRepoError":
            raise ModelUnsupportedError(
                f"{self._subject} is gated: accept its licence on the hub, and set HF_TOKEN"
            ) from error
        if status in (401, 403):
            raise ModelNotFoundError(
                f"{self._subject} is not on the hub, or is private: check the name, or set HF_TOKEN"
            ) from error
        if status == 404 or name in ("RepositoryNotFoundError", "EntryNotFoundError"):
            raise ModelNotFoundError(
                f"{self._subject} is not on the hub: check the name"
            ) from error
        outcome = f"answered {status}" if status else f"cannot be reached ({name})"
        raise ModelError(
            f"{self._subject}: the hub {outcome}; check the network and HF_ENDPOINT"
        ) from error
