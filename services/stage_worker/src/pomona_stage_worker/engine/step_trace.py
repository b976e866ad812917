"""When each step began, was built, computed and sent: one line a step, in a file a worker."""

from __future__ import annotations

import logging
from pathlib import Path

import orjson

from pomona_stage_worker.engine.step_timing import StepRecord

log = logging.getLogger(__name__)

MOST_HELD = 10_000


class StepTrace:
    """Collects in memory and writes when there is time.

    Moments are nanoseconds of time.monotonic_ns(), which all processes of a machine share.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._path = folder / f"{worker}.jsonl"
        self._lines: list[dict[str, object]] = []

    def add(self, record: StepRecord) -> None:
        if len(self._lines) >= MOST_HELD:
            return
        step = record.step
        self._lines.append(
            {
                "step": step.step,
                "lane": step.lane,
                "rows": len(step.rows),
                "sample": step.sample,
                "begin": record.begin,
                "built": record.built,
                "computed": record.computed,
                "sent": record.sent,
            }
        )

    def write(self) -> None:
        """Append what was collected. A disk that fails costs the trace, nothing else."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            with self._path.open("ab") as file:
                file.writelines(orjson.dumps(line) + b"\n" for line in lines)
        except OSError as error:
            log.warning("the trace cannot be written to %s: %s", self._path, error)
