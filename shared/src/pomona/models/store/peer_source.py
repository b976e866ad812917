"""Fetches models from the disks of other stage workers, verified by hash.

The server is :mod:`pomona_stage_worker.loading.file_server`.
"""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Sequence
from urllib.parse import quote, urlencode, urlsplit

from pydantic import TypeAdapter, ValidationError

from pomona.errors import ModelError, ModelNotFoundError
from pomona.models.store.remote_source import Manifest, Range

DEADLINE_S = 10.0
"""Longest wait for a peer without receiving a byte, seconds."""
DIGEST_HEADER = "x-sha256"

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
            return _MANIFESTS.validate_json(content)
        except ValidationError as error:
            raise ModelError(f"{self.name} sent no valid manifest of {source}") from error

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        try:
            return _RANGES.validate_json(self._get(f"/held?{_query(manifest, file)}")[0])
        except (ModelError, ValidationError):
            return ()

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        query = f"{_query(manifest, file)}&begin={begin}&end={end}"
        content, digest = self._get(f"/bytes?{query}")
        if len(content) != end - begin or hashlib.sha256(content).hexdigest() != digest:
            raise ModelError(f"what {self.name} sent of {file} does not have the hash it states")
        return content

    def _get(self, path: str) -> tuple[bytes, str]:
        url = urlsplit(self._url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ModelError(f"{self.name} does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ModelNotFoundError(f"{self.name} does not have the model")
        return content, response.headers.get(DIGEST_HEADER, "")


def _query(manifest: Manifest, file: str) -> str:
    return urlencode({"source": manifest.source, "version": manifest.version, "file": file})
