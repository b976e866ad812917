"""Serves this machine's model files to the other members of the cluster, read only.

A request is one of these paths: ``/manifest?source=`` lists a model's files;
``/held?source=&version=&file=`` lists the byte ranges of a file on disk;
``/bytes?source=&version=&file=&begin=&end=`` returns a range. The answer is its size and SHA-256,
then its bytes in parts, or one empty message for a missing file. ``/digests?source=&digest=``
returns the table of digests that the plan names. Only weight files and small
files of models that the plan names, or that have a managed copy here, are served. Files are looked
up by name in the manifest: a path from a peer is never opened.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import orjson

from pomona.errors import ModelError
from pomona.models.store.digest_files import kept_table
from pomona.models.store.local_manifest import Stamp, local_files, local_manifest, model_folder
from pomona.models.store.peer_source import PART_BYTES
from pomona.models.store.remote_source import Manifest, Range, is_small_file, is_weight_file
from pomona.models.store.sparse_copy import CHUNK_BYTES, SparseCopy
from pomona.transport import Replier

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1 << 14
THREADS = 4


class FileServer:
    """Server in threads of its own; the owner closes it.

    Args:
        port: 0 takes a free one.
        sources: returns the models that the plan names now.
        find: returns the managed copy of a model, or None.
    """

    def __init__(
        self,
        host: str,
        sources: Callable[[], Collection[str]],
        find: Callable[[str], SparseCopy | None] = SparseCopy.find,
        port: int = 0,
    ) -> None:
        self._find = find
        self._sources = sources
        self._manifests: dict[str, tuple[dict[str, Stamp], Manifest]] = {}
        self._replier = Replier(
            host, port, "POMONA_STAGE_WORKER_FILES_PORT", self._reply, threads=THREADS
        )
        self.endpoint = self._replier.endpoint

    def close(self) -> None:
        self._replier.close()

    def _reply(self, request: Sequence[bytes], node: str) -> Iterator[list[bytes]]:
        content = None
        if len(request) == 1 and len(request[0]) <= MAX_REQUEST_BYTES:
            target = urlsplit(request[0].decode("ascii", "replace"))
            query = {name: values[-1] for name, values in parse_qs(target.query).items()}
            try:
                content = self._answer(target.path, query)
            except (OSError, ModelError) as error:
                log.warning("cannot serve a peer: %s", error)
        if content is None:
            yield [b""]
            return
        yield [str(len(content)).encode(), hashlib.sha256(content).hexdigest().encode()]
        for at in range(0, len(content), PART_BYTES):
            yield [content[at : at + PART_BYTES]]

    def _answer(self, path: str, query: dict[str, str]) -> bytes | None:
        source, file = query.get("source", ""), query.get("file", "")
        manifest = self._manifest(source)
        if manifest is None:
            return None
        if path == "/digests":
            return kept_table(source, query.get("digest", ""))
        if path == "/manifest":
            return orjson.dumps(manifest)
        known = manifest.files.get(file)
        if known is None or manifest.version != query.get("version"):
            return None
        whole = is_small_file(file, known.size)
        if not whole and not is_weight_file(file):
            return None
        folder = self._own_folder(source)
        held: Sequence[Range] = [(0, known.size)]
        if folder is None:
            copy = self._find(source)
            if copy is None:
                return None
            folder, held = copy.folder, held if whole else copy.held_ranges(file)
        if path == "/held":
            return orjson.dumps(held)
        try:
            begin, end = int(query["begin"]), int(query["end"])
        except (KeyError, ValueError):
            return None
        if path != "/bytes" or not any(a <= begin <= end <= b for a, b in held):
            return None
        if end - begin > CHUNK_BYTES and not whole:
            return None
        with (folder / file).open("rb") as opened:
            opened.seek(begin)
            return opened.read(end - begin)

    def _manifest(self, source: str) -> Manifest | None:
        folder = self._own_folder(source)
        if folder is None:
            copy = self._find(source)
            return copy.manifest if copy else None
        files = local_files(source, folder)
        known = self._manifests.get(source)
        if known is None or known[0] != files:
            known = self._manifests[source] = (files, local_manifest(source, folder, files))
        return known[1]

    def _own_folder(self, source: str) -> Path | None:
        """Returns the folder that the plan names, or the folder of the GGUF file that it names."""
        return model_folder(source) if source in self._sources() else None
