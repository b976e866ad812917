"""Fetches models from the disks of other stage workers, verified by hash.

The server is :mod:`pomona_stage_worker.loading.file_server`.
"""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Sequence
from urllib.parse import quote, urlencode, urlsplit

from pydantic import TypeAdapter, ValidationError

from pomona.errors import ModelError, ModelNotFoundError
from pomona.models.store.remote_source import Manifest, Range, check_manifest

DEADLINE_S = 10.0
"""Longest wait for a peer without receiving a byte, seconds."""
TRANSFER_DEADLINE_S = 600.0
"""Longest time of one answer, seconds."""
MAX_LIST_BYTES = 16 << 20
"""Maximum size of a manifest and of a list of ranges."""
DIGEST_HEADER = "x-sha256"
_READ_BYTES = 1 << 20

_MANIFESTS = TypeAdapter(Manifest)
_RANGES = TypeAdapter(tuple[Range, ...])


class PeerSource:
    """A stage worker that serves its model files at ``url``."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url

    def manifest(self, source: str) -> Manifest:
        content, _ = self._get(f"/manifest?source={quote(source, safe='')}")
        try:
            return check_manifest(_MANIFESTS.validate_json(content))
        except ValidationError as error:
            raise ModelError(f"{self.name} sent no valid manifest of {source}") from error

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        try:
            ranges = _RANGES.validate_json(self._get(f"/held?{_query(manifest, file)}")[0])
        except (ModelError, ValidationError):
            return ()
        size = manifest.files[file].size
        return ranges if all(0 <= begin <= end <= size for begin, end in ranges) else ()

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        query = f"{_query(manifest, file)}&begin={begin}&end={end}"
        content, digest = self._get(f"/bytes?{query}", end - begin)
        if len(content) != end - begin or hashlib.sha256(content).hexdigest() != digest:
            raise ModelError(f"what {self.name} sent of {file} does not have the hash it states")
        return content

    def _get(self, path: str, most: int = MAX_LIST_BYTES) -> tuple[bytes, str]:
        url = urlsplit(self._url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            content = _read(response, most)
        except (OSError, http.client.HTTPException) as error:
            raise ModelError(f"{self.name} does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ModelNotFoundError(f"{self.name} does not have the model")
        return content, response.headers.get(DIGEST_HEADER, "")


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    """Reads a body. Raises ModelError for one that is too long, OSError for a slow one."""
    end = time.monotonic() + TRANSFER_DEADLINE_S
    parts: list[bytes] = []
    left = most + 1
    while left and (part := response.read1(min(left, _READ_BYTES))):
        parts.append(part)
        left -= len(part)
        if time.monotonic() > end:
            raise TimeoutError(f"its answer takes longer than {TRANSFER_DEADLINE_S:g} s")
    if not left and response.status == 200:
        raise ModelError(f"a peer answered with more than {most} bytes")
    return b"".join(parts)


def _query(manifest: Manifest, file: str) -> str:
    return urlencode({"source": manifest.source, "version": manifest.version, "file": file})
