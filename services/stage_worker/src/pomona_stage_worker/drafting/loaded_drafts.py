"""The draft models that the heads of this worker run, by epoch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

from pomona.errors import PomonaError
from pomona.models.draft_models import DRAFT_CONTEXT, DRAFT_MODEL
from pomona.models.store.remote_source import RemoteSource
from pomona_stage_worker.compute_backend import DraftReader
from pomona_stage_worker.drafting.draft_model import DraftModelSource
from pomona_stage_worker.engine.stage_runner import StageRunner
from pomona_stage_worker.engine.step_loop import StepLoop
from pomona_stage_worker.loading import assemble
from pomona_stage_worker.reconcile import Install

log = logging.getLogger(__name__)


class LoadedDrafts:
    """Loads draft models beside pipelines that serve already, and hands them to the schedulers.

    Args:
        read: reads a draft model's weights; None where none can be run.
        loader: thread that reads weights.
    """

    def __init__(self, read: DraftReader | None, loader: Executor, loop: StepLoop) -> None:
        self._read = read
        self._loader = loader
        self._loop = loop
        self._sources: dict[int, DraftModelSource] = {}
        self._bytes: dict[int, int] = {}
        self._wanted: set[int] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(self._bytes.values())

    async def load(
        self, install: Install, runner: StageRunner, peers: Sequence[RemoteSource]
    ) -> None:
        """Loads the draft model of a pipeline whose head is here. A failure is in the status of
        the guesses; the pipeline serves without."""
        pipeline = install.pipeline
        if install.position or not pipeline.draft_source:
            return
        if self._read is None:
            self._refuse(runner, "this kind of worker runs none")
            return
        self._wanted.add(pipeline.epoch)
        self._refuse(runner, f"{pipeline.draft_source} is being loaded")
        try:
            weights = await asyncio.get_running_loop().run_in_executor(
                self._loader, self._read, pipeline.draft_source, peers
            )
        except PomonaError as error:
            self._fail(runner, pipeline.epoch, str(error))
            return
        except Exception as error:  # a broken file can make a library raise anything
            log.exception("cannot load the draft model", extra={"epoch": pipeline.epoch})
            self._fail(runner, pipeline.epoch, f"{type(error).__name__}: {error}")
            return
        if pipeline.epoch not in self._wanted:
            return
        source = DraftModelSource(
            partial(assemble, weights),
            pipeline.vocab_size,
            DRAFT_CONTEXT,
            len(pipeline.stages),
            partial(self._loop.call, _nothing),
        )
        self._sources[pipeline.epoch] = source
        self._bytes[pipeline.epoch] = weights.nbytes
        source.start()
        self._loop.call(lambda: runner.add_source(source))
        log.info(
            "%s guesses: %d MB", pipeline.draft_source, weights.nbytes >> 20,
            extra={"epoch": pipeline.epoch},
        )  # fmt: skip

    def close(self, epoch: int) -> None:
        """Ends the draft model of an epoch, if there is one."""
        self._wanted.discard(epoch)
        self._bytes.pop(epoch, None)
        source = self._sources.pop(epoch, None)
        if source is not None:
            source.close(wait=False)

    def close_all(self) -> None:
        """Ends all draft models and waits for their threads."""
        sources = list(self._sources.values())
        for epoch in [*self._wanted, *self._sources]:
            self.close(epoch)
        for source in sources:
            source.close()

    def _fail(self, runner: StageRunner, epoch: int, reason: str) -> None:
        log.error("no guesses from a draft model: %s", reason, extra={"epoch": epoch})
        self._refuse(runner, reason)

    def _refuse(self, runner: StageRunner, reason: str) -> None:
        self._loop.call(lambda: runner.refuse_source(DRAFT_MODEL, reason))


def _nothing() -> None:
    """Wakes the step loop, which then asks the sources of guesses again."""
