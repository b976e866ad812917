"""Fetches models from the disks of other stage workers, verified by hash.

The server is :mod:`pomona_stage_worker.loading.file_server`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from pydantic import TypeAdapter, ValidationError

from pomona.errors import LinkError, ModelError, ModelNotFoundError
from pomona.models.store.remote_source import Manifest, Range, check_manifest
from pomona.models.store.weight_digests import MAX_TABLE_BYTES, DigestTable, decode_table
from pomona.transport import Requester

DEADLINE_S = 10.0
"""Longest wait for a peer without receiving a part of its answer, seconds."""
TRANSFER_DEADLINE_S = 600.0
"""Longest time of one answer, seconds."""
MAX_LIST_BYTES = 16 << 20
"""Maximum size of a manifest and of a list of ranges."""
PART_BYTES = 1 << 20
"""Bytes of one part of an answer."""

_MANIFESTS = TypeAdapter(Manifest)
_RANGES = TypeAdapter(tuple[Range, ...])


class PeerSource:
    """A stage worker that serves its model files.

    Args:
        endpoint: where it does, with its node (:func:`pomona.addresses.at_node`).
    """

    def __init__(self, name: str, endpoint: str) -> None:
        self.name = name
        self._endpoint = endpoint

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

    def header_bytes(self, manifest: Manifest, file: str) -> int:
        return 0

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        query = f"{_query(manifest, file)}&begin={begin}&end={end}"
        content, digest = self._get(f"/bytes?{query}", end - begin)
        if len(content) != end - begin or hashlib.sha256(content).hexdigest() != digest:
            raise ModelError(f"what {self.name} sent of {file} does not have the hash it states")
        return content

    def digest_table(self, source: str, digest: str) -> DigestTable:
        """Returns the table of digests that the plan names. Raises ModelError."""
        query = urlencode({"source": source, "digest": digest})
        return decode_table(self._get(f"/digests?{query}", MAX_TABLE_BYTES)[0], digest)

    def _get(self, path: str, most: int = MAX_LIST_BYTES) -> tuple[bytes, str]:
        """Returns the content and its SHA-256 as the peer states it.

        The first part of an answer is its size in bytes and the digest, or nothing when the peer
        does not have it. Raises ModelError.
        """
        try:
            requester = Requester(self._endpoint)
            try:
                requester.send(path.encode(), timeout_s=DEADLINE_S)
                head = requester.receive(DEADLINE_S)
                if len(head) != 2 or not head[0].isdigit() or len(head[0]) > 20:
                    raise ModelNotFoundError(f"{self.name} does not have the model")
                return self._content(requester, int(head[0]), most), head[1].decode(
                    "ascii", "replace"
                )
            finally:
                requester.close()
        except LinkError as error:
            raise ModelError(f"{self.name} does not answer: {error}") from error

    def _content(self, requester: Requester, size: int, most: int) -> bytes:
        """Receives the parts of an answer. Raises ModelError for one that is too long or slow."""
        ends_at = time.monotonic() + TRANSFER_DEADLINE_S
        content = bytearray()
        while len(content) < size <= most:
            content += b"".join(requester.receive(DEADLINE_S))
            if time.monotonic() > ends_at:
                raise ModelError(
                    f"{self.name}'s answer takes longer than {TRANSFER_DEADLINE_S:g} s"
                )
        if size > most or len(content) > size:
            raise ModelError(f"{self.name} answered with more than {most} bytes")
        return bytes(content)


def _query(manifest: Manifest, file: str) -> str:
    return urlencode({"source": manifest.source, "version": manifest.version, "file": file})
