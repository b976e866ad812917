"""Peers as keepers of models: what they have on disk is fetched from them, checked by hash.

The other side is :mod:`pomona_stage_worker.loading.file_server`.
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
"""For one answer of a peer, seconds without a byte."""
DIGEST_HEADER = "x-sha256"

_MANIFESTS = TypeAdapter(Manifest)
_RANGES = TypeAdapter(tuple[Range, ...])


class PeerSource:
    """A stage worker of another process or node that serves its files at ``url``."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url

    def manifest(self, source: str) -> Manifest:
        content, _ = self._get(f"/manifest?source={quote(source, safe='')}")
        try:
            return _MANIFESTS.validate_json(content)
        except ValidationError as error:
            raise ModelError(f"{self.name} sent no manifest of {source}") from error

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
        place = urlsplit(self._url)
        connection = http.client.HTTPConnection(
            place.hostname or "", place.port, timeout=DEADLINE_S
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ModelError(f"{self.name} does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise ModelNotFoundError(f"{self.name} does not have it")
        return content, answer.headers.get(DIGEST_HEADER, "")


def _query(manifest: Manifest, file: str) -> str:
    return urlencode({"source": manifest.source, "version": manifest.version, "file": file})
