"""A pipeline with a real scheduler and simulated stages, whose steps take a given time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pomona.messages.pipeline import Step, Submit
from pomona.messages.sampling import Sampling
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.scheduler import RunStep, Scheduler, SchedulerLimits


class TimedPipeline:
    """Each stage runs one step at a time, in the order of arrival. The head schedules a step only
    when it is free, like a real one.

    Args:
        seconds: returns the time of a step in one stage; called for every stage.

    Attributes:
        now: simulated time, seconds.
        token_times: times at which the tokens of each request were sampled, by request number
            from 1.
    """

    def __init__(self, stages: int, seconds: Callable[[RunStep], float]) -> None:
        self.scheduler = Scheduler(
            SchedulerLimits(stages, context_length=9999, cache_tokens=99_999)
        )
        self.now = 0.0
        self.steps: list[Step] = []
        self.token_times: dict[int, list[float]] = {}
        self._seconds = seconds
        self._free_at = [0.0] * stages
        self._in_flight: deque[tuple[float, Step, tuple[int, ...]]] = deque()
        self._max_tokens: dict[int, int] = {}

    def submit(self, prompt: int, max_tokens: int) -> int:
        """Submits a prompt of ``prompt`` tokens. Returns the number of the request, which is
        also that of its sequence."""
        number = len(self.token_times) + 1
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        submit = Submit(f"r{number}", 1, "m", "", sampling)
        self.scheduler.submit(submit, [number] * prompt, self.now)
        self.token_times[number] = []
        self._max_tokens[number] = max_tokens
        return number

    def advance(self) -> None:
        """Issues a step, or moves the time to when the head is free or the tail is done."""
        run = self._next_step() if self.now >= self._free_at[0] else None
        if run is not None:
            self._issue(run)
        elif self.now < self._free_at[0] < self._in_flight[0][0]:
            self.now = self._free_at[0]
        else:
            self._finish(*self._in_flight.popleft())

    def run_until(self, request: int, tokens: int) -> None:
        while len(self.token_times[request]) < tokens:
            self.advance()

    def run(self) -> None:
        """Runs until every request has ended."""
        while self.scheduler.active or self.scheduler.waiting:
            self.advance()

    def _next_step(self) -> RunStep | None:
        steps = [x for x in self.scheduler.schedule(self.now) if isinstance(x, RunStep)]
        return steps[0] if steps else None

    def _issue(self, run: RunStep) -> None:
        self.steps.append(run.step)
        if not run.step.rows:
            return
        at = self.now
        elapsed: list[int] = []
        for stage, free in enumerate(self._free_at):
            seconds = self._seconds(run)
            at = self._free_at[stage] = max(at, free) + seconds
            elapsed.append(int(seconds * 1e6))
        self._in_flight.append((at, run.step, tuple(elapsed)))

    def _finish(self, at: float, step: Step, elapsed_us: tuple[int, ...]) -> None:
        self.now = at
        sampled: list[SampledToken] = []
        for seq in step.rows if step.sample else ():
            self.token_times[seq].append(at)
            is_last = len(self.token_times[seq]) == self._max_tokens[seq]
            sampled.append(SampledToken(seq, 7, "length" if is_last else None))
        self.scheduler.step_done(step.step, sampled, elapsed_us)
