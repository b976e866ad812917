"""Checks what other stage workers send of a model against the digests of the plan.

The planner's own machine is believed without a digest: whoever can change its files can change
the plan. Everyone else is asked only for bytes whose digest is known. A peer that sends others is
reported and asked no more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from pomona.errors import ModelError
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.peer_source import PeerSource
from pomona.models.store.remote_source import Manifest, Range, RemoteSource
from pomona.models.store.weight_digests import DigestTable, has_digest

log = logging.getLogger(__name__)

OnFalse = Callable[[str, str], None]
"""Called in any thread with the name of a peer and the file of which it sent other bytes."""


class PlanDigests:
    """The table of digests of one model, fetched from peers when it is first needed. Thread-safe.

    Args:
        digest: the plan's; empty while the planner computes it.
    """

    def __init__(self, source: str, digest: str, peers: Sequence[PeerSource]) -> None:
        self.source = source
        self._digest = digest
        self._peers = peers
        self._guard = threading.Lock()
        self._table: DigestTable | None = None
        self._is_known = not digest

    def table(self) -> DigestTable | None:
        """Returns the table; None when there is none, or no peer has it."""
        with self._guard:
            if not self._is_known:
                self._is_known = True
                self._table = self._fetch()
            return self._table

    def _fetch(self) -> DigestTable | None:
        for peer in self._peers:
            try:
                return peer.digest_table(self.source, self._digest)
            except ModelError as error:
                log.debug("no digests from %s: %s", peer.name, error)
        log.warning(
            "no machine has the digests of the plan; only the planner's machine is asked",
            extra={"source": self.source},
        )
        return None


class CheckedSource:
    """A peer whose bytes are checked.

    Args:
        is_planner: the peer is on the planner's machine, or on this one.
    """

    def __init__(
        self,
        peer: RemoteSource,
        digests: PlanDigests,
        is_planner: bool,
        on_false: OnFalse = lambda peer, file: None,
    ) -> None:
        self.name = peer.name
        self.digests = digests
        self._peer = peer
        self._is_planner = is_planner
        self._on_false = on_false
        self._refused = ""

    def manifest(self, source: str) -> Manifest:
        manifest = self._peer.manifest(source)
        table = self.digests.table()
        if table is None:
            self._require_planner(manifest.source)
        elif manifest.version == table.version:
            for name, file in manifest.files.items():
                known = table.files.get(name)
                if known is not None and known.size != file.size:
                    self._refuse(name)
        elif not self._is_planner:
            raise ModelError(f"{self.name} has another version of {source} than the plan")
        return manifest

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        return self._peer.held_ranges(manifest, file)

    def header_bytes(self, manifest: Manifest, file: str) -> int:
        known = self._known(manifest)
        segments = known.files[file].segments if known and file in known.files else ()
        return segments[0][1] if segments and segments[0][0] == 0 else 0

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        """Reads whole segments, checks them, and returns the range.

        Raises ModelError for other bytes than the plan's, or for bytes without a digest.
        """
        if self._refused:
            raise ModelError(f"{self.name} has sent other bytes of {self._refused} than the plan's")
        known = self._known(manifest)
        digests = known.files.get(file) if known else None
        if digests is None or not digests.covers(begin, end):
            self._require_planner(file)
            return self._peer.read(manifest, file, begin, end)
        segments = digests.overlapping(begin, end)
        first = segments[0][0] if segments else begin
        last = segments[-1][1] if segments else end
        content = self._peer.read(manifest, file, first, last)
        if not all(has_digest(content, first, segment) for segment in segments):
            self._refuse(file)
        return content[begin - first : end - first]

    def unchecked(self) -> RemoteSource | None:
        """Returns the source of bytes that nobody can check, for when the hub does not answer.

        None for models that are not of the hub, of which the planner's machine has everything.
        """
        return _Unchecked(self, self._peer) if is_hub_id(self.digests.source) else None

    def may_be_unchecked(self, manifest: Manifest, file: str, begin: int, end: int) -> bool:
        """Tests whether the plan has no digest of some byte of a range."""
        known = self._known(manifest)
        digests = known.files.get(file) if known else None
        return not self._refused and (digests is None or not digests.covers(begin, end))

    def _known(self, manifest: Manifest) -> DigestTable | None:
        table = self.digests.table()
        return table if table is not None and table.version == manifest.version else None

    def _require_planner(self, what: str) -> None:
        if not self._is_planner:
            raise ModelError(f"{self.name} is not asked for {what}: the plan has no digest of it")

    def _refuse(self, file: str) -> None:
        self._refused = file
        log.error(
            "%s sent other bytes of %s than the plan's; it is not asked any more", self.name, file,
            extra={"source": self.digests.source},
        )  # fmt: skip
        self._on_false(self.name, file)
        raise ModelError(f"what {self.name} sent of {file} does not have the digest of the plan")


class _Unchecked:
    """Bytes of a peer that have no digest in the plan."""

    def __init__(self, checked: CheckedSource, peer: RemoteSource) -> None:
        self.name = peer.name
        self._checked = checked
        self._peer = peer

    def manifest(self, source: str) -> Manifest:
        log.warning("the hub does not answer, and %s lists the files of %s", self.name, source)
        return self._peer.manifest(source)

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        return self._peer.held_ranges(manifest, file)

    def header_bytes(self, manifest: Manifest, file: str) -> int:
        return 0

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        if not self._checked.may_be_unchecked(manifest, file, begin, end):
            raise ModelError(f"{self.name} has been asked")
        log.warning(
            "bytes %d to %d of %s come from %s unchecked: the planner's machine does not hold "
            "them, and the hub does not answer", begin, end, file, self.name,
        )  # fmt: skip
        return self._peer.read(manifest, file, begin, end)


def last_resorts(sources: Iterable[RemoteSource]) -> list[RemoteSource]:
    """Returns the sources to ask after the hub."""
    checked = [x.unchecked() for x in sources if isinstance(x, CheckedSource)]
    return [x for x in checked if x is not None]


def plan_digests(sources: Iterable[RemoteSource]) -> PlanDigests | None:
    """Returns the digests against which these sources are checked."""
    return next((x.digests for x in sources if isinstance(x, CheckedSource)), None)
