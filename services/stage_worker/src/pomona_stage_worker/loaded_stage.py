"""A stage of one epoch, from the plan that names it to its removal, and its status."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pomona.messages.control import GroupStatus, StageStatus
from pomona_stage_worker.engine.stage_runner import StageRunner
from pomona_stage_worker.loading import StageWeights
from pomona_stage_worker.reconcile import Install

MAX_ERROR_CHARACTERS = 4096


class LoadedStage:
    """A stage that is loading, ready or failed.

    Attributes:
        install: the newest instruction of the plan.
        weights: None until they are read.
        runner: None until the step thread has taken the stage.
        guess_width: most tokens of a step with guesses; 0 until the head has chosen it.
    """

    def __init__(self, install: Install) -> None:
        pipeline = install.pipeline
        stage = pipeline.stages[install.position]
        self.install = install
        self.weights: StageWeights | None = None
        self.runner: StageRunner | None = None
        self.guess_width = 0
        self._status = StageStatus(
            pipeline.model, pipeline.epoch, stage.start, stage.stop, "loading"
        )

    @property
    def failure(self) -> str | None:
        """Error that ended the epoch here, or None."""
        return self.runner.failure if self.runner is not None else None

    @property
    def bytes_read(self) -> int | None:
        """Bytes in memory while weights are read from this machine's disk, or None."""
        status = self._status
        is_fetching = status.fetched_bytes < status.fetch_bytes
        if status.state != "loading" or self.weights is not None or is_fetching:
            return None
        return status.loaded_bytes + status.fetched_bytes

    def status(self) -> StageStatus:
        """Returns the status with the present step times."""
        if self.runner is None:
            return self._status
        times = self.runner.times
        return replace(
            self._status,
            decode_us=times.decode_us,
            tail_us=times.tail_us,
            prefill_us=times.prefill_us,
            token_us=times.token_us,
            sequence_tokens=self.runner.load.sequence_tokens,
            workspace_bytes=self.runner.stage.warmup.workspace_bytes,
            speculation=self.runner.speculation,
            max_width=self.runner.stage.max_width,
        )

    def report_progress(self, done: int, total: int, fetching: bool = False) -> None:
        """Sets the bytes in memory or, while ``fetching``, those on disk. Thread-safe."""
        status = self._new_status("loading")
        if fetching:
            self._status = replace(status, fetched_bytes=done, fetch_bytes=total)
        else:
            self._status = replace(status, loaded_bytes=done, total_bytes=total)

    def set_ready(self, nbytes: int, group: GroupStatus | None = None) -> None:
        """Sets the bytes of the weights, and the ranks that hold them."""
        self._status = replace(
            self._new_status("ready"), loaded_bytes=nbytes, total_bytes=nbytes, group=group
        )

    def set_failed(self, error: str) -> None:
        self._status = replace(self._new_status("failed"), error=error[:MAX_ERROR_CHARACTERS])

    def _new_status(self, state: Literal["loading", "ready", "failed"]) -> StageStatus:
        old = self._status
        return StageStatus(old.model, old.epoch, old.start, old.stop, state)
