"""Computes the digests of the planned models' files, beside planning.

A plan never waits for them: until they are known, stage workers fetch weights from the planner's
machine and the hub only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from pomona.errors import ModelError
from pomona.messages.control import Pipeline
from pomona.models import EMBEDDED_MODEL
from pomona.models.store.digest_files import compute_table, content_stamp

log = logging.getLogger(__name__)

LOOK_INTERVAL_S: Final = 5.0
"""Interval at which the files of a model are looked at for changes."""


class WeightDigests:
    """Keeps the digest of each model that has a stage on another machine than this.

    Args:
        node: node of this planner.
        on_change: called when a digest is known.
    """

    def __init__(self, node: str, on_change: Callable[[], None]) -> None:
        self._node = node
        self._on_change = on_change
        self._digests: dict[str, str] = {}
        self._stamps: dict[str, object] = {}
        self._looked_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def update(self, pipelines: Iterable[Pipeline]) -> None:
        """Starts computing what is missing, one model at a time."""
        if self._task is not None and not self._task.done():
            return
        now = time.monotonic()
        for pipeline in pipelines:
            source = pipeline.source
            is_due = now - self._looked_at.get(source, -LOOK_INTERVAL_S) >= LOOK_INTERVAL_S
            if self._is_spread(pipeline) and source != EMBEDDED_MODEL and is_due:
                self._task = asyncio.create_task(self._compute(source))
                return

    def added_to(self, pipeline: Pipeline) -> Pipeline:
        """Returns the pipeline with the digest of its model, as far as it is known."""
        return replace(pipeline, digest=self._digests.get(pipeline.source, ""))

    def stop(self) -> None:
        """Abandons the computation."""
        if self._task is not None:
            self._task.cancel()

    def _is_spread(self, pipeline: Pipeline) -> bool:
        return any(stage.node != self._node for stage in pipeline.stages)

    async def _compute(self, source: str) -> None:
        try:
            stamp = await asyncio.to_thread(content_stamp, source)
            if stamp is None or stamp == self._stamps.get(source):
                return
            began = time.monotonic()
            digest = (await asyncio.to_thread(compute_table, source)).digest()
            self._stamps[source] = stamp
            if digest != self._digests.get(source):
                self._digests[source] = digest
                log.info(
                    "digests of %s are known after %.1f s", source, time.monotonic() - began,
                    extra={"digest": digest},
                )  # fmt: skip
                self._on_change()
        except ModelError as error:
            log.warning("no digests of %s: %s", source, error)
        finally:
            self._looked_at[source] = time.monotonic()
