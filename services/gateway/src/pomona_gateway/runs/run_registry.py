"""The runs of a gateway: started, found again by their id or key, gone on with after a restart."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator

from pomona.errors import RequestError
from pomona_gateway.runs.disk_journal import DiskJournal
from pomona_gateway.runs.run import Run, RunKind, RunOrigin, RunRecorder, RunRequest
from pomona_gateway.runs.run_context import executing
from pomona_gateway.runs.run_file import RunFile

log = logging.getLogger(__name__)

MAX_RUNS = 4096
"""Maximum number of ended runs that are kept."""
BACKGROUND_KEEP_S = 86400.0
"""Seconds for which the file of a background response that has not ended is gone on with."""
OTHERS_DEADLINE_S = 120.0
"""Longest wait for a run that another gateway executes, seconds."""
SWEEP_S = 1.0
RETRY_S = 1.0
RETRIED = frozenset({404, 429, 503, 504})
"""Statuses after which a run of a former gateway is executed again: its model is not there yet."""


class RunRegistry:
    """Owns every run, and its file.

    Args:
        journal: writes runs to disk; None keeps them in memory only.
        keep_s: seconds for which an ended run can be had again.
        max_bytes: maximum size of the ended runs in memory; beyond it the oldest are dropped.

    Attributes:
        execute: executes the request of a run, and records the response in it.
        on_failed: called with a run that has ended without a whole response.
        is_stored: returns whether the response of a run is stored elsewhere, too.
    """

    def __init__(self, journal: DiskJournal | None, keep_s: float, max_bytes: int) -> None:
        self.execute: Callable[[Run], Awaitable[None]] = _not_bound
        self.on_failed: Callable[[Run], None] = lambda run: None
        self.is_stored: Callable[[RunOrigin], bool] = lambda origin: False
        self._journal = journal
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._runs: dict[str, Run] = {}
        self._keys: dict[tuple[str, str], Run] = {}
        self._foreign: dict[str, RunFile] = {}
        self._has_read = asyncio.Event()
        self._swept = asyncio.Event()
        self._interruption: RequestError | None = None
        self._sweeper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    def get(self, run_id: str, tenant: str) -> Run | None:
        """Returns a run of this tenant by its id."""
        run = self._runs.get(run_id)
        return run if run is not None and run.origin.tenant == tenant else None

    def find(self, key: str, tenant: str) -> Run | None:
        """Returns a run of this tenant by its ``Idempotency-Key``."""
        return self._keys.get((tenant, key))

    async def wait_for_others(self, *, run_id: str = "", key: str = "", tenant: str = "") -> None:
        """Waits until the journal has been read, and no other gateway, which ends, executes the
        run with this id, or with this key of a tenant.

        Raises RequestError with status 503 after ``OTHERS_DEADLINE_S``.
        """
        try:
            async with asyncio.timeout(OTHERS_DEADLINE_S):
                await self._has_read.wait()
                while self._is_elsewhere(run_id, key, tenant):
                    await self._swept.wait()
        except TimeoutError:
            message = (
                f"another gateway still executes this request after {OTHERS_DEADLINE_S:g} s, or "
                "the journal cannot be read; try again later"
            )
            raise RequestError(503, "run_elsewhere", message, retry_after_s=10) from None

    def _is_elsewhere(self, run_id: str, key: str, tenant: str) -> bool:
        return any(
            found.origin.id == run_id
            or (key and (found.origin.tenant, found.origin.key) == (tenant, key))
            for found in self._foreign.values()
        )

    def start(
        self,
        kind: RunKind,
        request: RunRequest,
        tenant: str,
        *,
        run_id: str = "",
        key: str = "",
        fingerprint: str = "",
        background: bool = False,
        on_disk: bool = True,
    ) -> Run:
        """Starts to execute a request. Returns the run with this id if there is one."""
        run_id = run_id or f"run_{secrets.token_hex(16)}"
        known = self.get(run_id, tenant)
        if known is not None:
            return known
        origin = RunOrigin(
            kind, run_id, tenant, key, fingerprint, background, time.time(),
            secrets.token_hex(16), on_disk, request,
        )  # fmt: skip
        run = Run(origin, self._recorder(origin))
        if isinstance(run.recorder, DiskJournal):
            run.recorder.create(run)
        self._add(run)
        run.task = asyncio.create_task(self._run(run))
        return run

    def taken(self, run: Run) -> None:
        """Notes that a client has the whole response, so that the disk need not keep it."""
        if run.origin.kind == "response" and not run.origin.background:
            run.taken = True
            self._erase(run)

    async def cancel(self, run: Run, last_part: Callable[[], bytes] = lambda: b"") -> None:
        """Ends an execution. ``last_part`` returns the end of the response."""
        if run.ended:
            return
        await run.stop()
        run.record_part(last_part())
        run.end(RequestError(499, "cancelled", "the request was cancelled"))
        self._erase(run)

    async def drop(self, run: Run) -> None:
        """Cancels and forgets a run."""
        await self.cancel(run)
        self._forget(run)

    def abandon(self, run: Run) -> None:
        """Cancels and forgets a run without a reader."""
        run.end(RequestError(499, "cancelled", "the client left"))
        if run.task is not None:
            run.task.cancel()
        self._forget(run)

    # Across gateways -------------------------------------------------------------------

    def open(self) -> None:
        """Starts to drop old runs, and to go on with those of former gateways."""
        self._sweeper = asyncio.create_task(self._sweep_periodically())

    async def interrupt(self, error: RequestError) -> None:
        """Stops every run. The next gateway goes on with those that are on disk."""
        self._interruption = error
        running = [run for run in self if not run.ended]
        for run in running:
            run.interrupt(error)
        await asyncio.gather(*(run.stop() for run in running))

    async def hand_over(self, error: RequestError) -> None:
        """Leaves the runs on disk without a reader to the successor, until cancelled."""
        while True:
            left = [
                run
                for run in self
                if not run.ended and not run.readers and isinstance(run.recorder, DiskJournal)
            ]
            for run in left:
                run.interrupt(error)
                await run.stop()
                if isinstance(run.recorder, DiskJournal):
                    run.recorder.release(run)
                    run.recorder = RunRecorder()
            await asyncio.sleep(SWEEP_S)

    def unsaved_tasks(self) -> set[asyncio.Task[None]]:
        """Returns the executions of runs that are in memory only."""
        unsaved = [run for run in self if not isinstance(run.recorder, DiskJournal)]
        return {run.task for run in unsaved if run.task is not None}

    async def close(self) -> None:
        """Stops every run and writes what the journal still holds."""
        await self.interrupt(RequestError(503, "shutting_down", "the gateway stopped"))
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        if self._journal is not None:
            await asyncio.to_thread(self._journal.close)

    async def _sweep_periodically(self) -> None:
        if self._journal is not None:
            try:
                for found in await asyncio.to_thread(self._journal.read_all):
                    self._take_over(found)
            except OSError as error:
                log.warning("the journal cannot be read", extra={"reason": str(error)})
        self._has_read.set()
        while True:
            await asyncio.sleep(SWEEP_S)
            self._drop_old(time.monotonic())
            await self._take_over_foreign()
            swept, self._swept = self._swept, asyncio.Event()
            swept.set()

    def _take_over(self, found: RunFile) -> None:
        """Goes on with a run on disk, or serves its response."""
        journal, origin = self._journal, found.origin
        if journal is None or origin.id in self._runs or self._interruption is not None:
            return
        age = time.time() - journal.modified_at(origin.id)
        keep_s = BACKGROUND_KEEP_S if origin.background and not found.response else self._keep_s
        if found.response is None and journal.is_alive(found.owner):
            self._foreign[origin.id] = found
            return
        if age > keep_s or (found.response is None and self.is_stored(origin)):
            journal.erase(origin.id)
            return
        run = Run(origin, journal, found.sequences)
        self._add(run)
        if found.response is not None:
            response = found.response
            run.status, run.headers, run.parts = response.status, response.headers, response.parts
            run.size = sum(map(len, run.parts))
            run.ended_at = time.monotonic() - age
            return
        log.info("going on with the run of a former gateway", extra={"run": run.id})
        journal.adopt(run, found.size)
        run.resumed = True
        run.task = asyncio.create_task(self._run(run, resumed=True))

    async def _take_over_foreign(self) -> None:
        """Takes over the runs whose gateway has ended."""
        journal = self._journal
        if journal is None:
            return
        for run_id, known in list(self._foreign.items()):
            if journal.is_alive(known.owner) and not await asyncio.to_thread(
                journal.is_released, run_id
            ):
                continue
            found = await asyncio.to_thread(journal.read, run_id)
            del self._foreign[run_id]
            if found is not None:
                self._take_over(found)

    # Execution -------------------------------------------------------------------------

    async def _run(self, run: Run, resumed: bool = False) -> None:
        deadline = time.monotonic() + self._keep_s
        error: RequestError | None = None
        try:
            with executing(run):
                while True:
                    run.begin()
                    await self.execute(run)
                    waits = resumed and run.status in RETRIED and time.monotonic() < deadline
                    if not waits:
                        break
                    run.status, run.headers = 0, []
                    run.parts.clear()
                    await asyncio.sleep(RETRY_S)
        except asyncio.CancelledError:
            run.task = None
            raise
        except RequestError as failure:
            error = failure
        except Exception:
            log.exception("a run failed", extra={"run": run.id})
            error = RequestError(500, "internal_error", "the gateway failed on this request")
        run.task = None
        if not run.ended:
            run.end(error)
            self._on_end(run)

    def _on_end(self, run: Run) -> None:
        if run.succeeded:
            if isinstance(run.recorder, DiskJournal):
                run.recorder.end(run)
            if run.taken:
                self._erase(run)
            return
        self.on_failed(run)
        # The same request, sent again, is a new one. Who reads this run now still can.
        if run.origin.kind == "request" or run.status >= 400 or not run.parts:
            self._forget(run)
        self._erase(run)

    # Bookkeeping -----------------------------------------------------------------------

    def _recorder(self, origin: RunOrigin) -> DiskJournal | None:
        return self._journal if origin.on_disk else None

    def _add(self, run: Run) -> None:
        self._runs[run.id] = run
        if run.origin.key:
            self._keys[run.origin.tenant, run.origin.key] = run

    def _forget(self, run: Run) -> None:
        self._runs.pop(run.id, None)
        place = (run.origin.tenant, run.origin.key)
        if self._keys.get(place) is run:
            del self._keys[place]
        self._erase(run)

    def _erase(self, run: Run) -> None:
        if isinstance(run.recorder, DiskJournal):
            run.recorder.erase(run.id)

    def _drop_old(self, now: float) -> None:
        """Drops runs whose time is over, then the oldest while there are too many."""
        ended = sorted(
            (run for run in self if run.ended_at is not None), key=lambda run: run.ended_at or 0.0
        )
        size = sum(run.size for run in ended)
        count = len(ended)
        for run in ended:
            is_old = now - (run.ended_at or 0.0) > self._keep_s
            if not is_old and size <= self._max_bytes and count <= MAX_RUNS:
                break
            size -= run.size
            count -= 1
            self._forget(run)


async def _not_bound(run: Run) -> None:
    raise RequestError(503, "shutting_down", "this gateway executes no requests")


def fingerprint_of(request: RunRequest, canonical_body: bytes) -> str:
    """Returns the digest by which requests with one key are compared."""
    digest = hashlib.sha256()
    for part in (request.path.encode(), request.query.encode(), canonical_body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
