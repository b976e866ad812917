"""A pipeline of which only the scheduler is real: stages take the time that a test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pomona.messages.pipeline import Step, Submit
from pomona.messages.sampling import Sampling
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.scheduler import PlannedStep, Scheduler, SchedulerLimits


class TimedPipeline:
    """Each stage serves one step at a time, in the order of arrival; the head decides only when
    it is free, as it does in earnest.

    Args:
        seconds: what a step takes; asked for every stage.
    """

    def __init__(self, stages: int, seconds: Callable[[PlannedStep], float]) -> None:
        self.scheduler = Scheduler(
            SchedulerLimits(stages, context_length=9999, cache_tokens=99_999)
        )
        self.now = 0.0
        self.steps: list[Step] = []
        self.moments: dict[int, list[float]] = {}
        """Of each request, by its number from 1: when its tokens were drawn."""
        self._seconds = seconds
        self._free_at = [0.0] * stages
        self._under_way: deque[tuple[float, Step, tuple[int, ...]]] = deque()
        self._most: dict[int, int] = {}

    def submit(self, prompt: int, max_tokens: int) -> int:
        """Returns: the number of the request, which is that of its sequence."""
        number = len(self.moments) + 1
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        submit = Submit(f"r{number}", 1, "m", "", sampling)
        self.scheduler.submit(submit, [number] * prompt, self.now)
        self.moments[number] = []
        self._most[number] = max_tokens
        return number

    def advance(self) -> None:
        """The head issues a step, or time goes on until it is free or the tail is done."""
        planned = self.scheduler.next_step(self.now) if self.now >= self._free_at[0] else None
        if planned is not None:
            self._issue(planned)
        elif self.now < self._free_at[0] < self._under_way[0][0]:
            self.now = self._free_at[0]
        else:
            self._end(*self._under_way.popleft())

    def run_until(self, request: int, tokens: int) -> None:
        while len(self.moments[request]) < tokens:
            self.advance()

    def _issue(self, planned: PlannedStep) -> None:
        self.steps.append(planned.step)
        if not planned.step.rows:
            return
        at = self.now
        elapsed: list[int] = []
        for stage, free in enumerate(self._free_at):
            seconds = self._seconds(planned)
            at = self._free_at[stage] = max(at, free) + seconds
            elapsed.append(int(seconds * 1e6))
        self._under_way.append((at, planned.step, tuple(elapsed)))

    def _end(self, at: float, step: Step, elapsed_us: tuple[int, ...]) -> None:
        self.now = at
        sampled: list[SampledToken] = []
        for seq in step.rows if step.sample else ():
            self.moments[seq].append(at)
            over = len(self.moments[seq]) == self._most[seq]
            sampled.append(SampledToken(seq, 7, "length" if over else None))
        self.scheduler.step_done(step.step, sampled, elapsed_us)
