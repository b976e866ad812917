"""``python -m pomona_stage_worker.testing.emulated``: a stage worker that computes nothing.

Everything around the computation is real: bus, codec, scheduler, ops and cache tables. Every step
takes the same fixed time, and the tail emits made-up tokens.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pomona import host
from pomona.messages.cache_ops import Close, Open, Rollback
from pomona.messages.codec import Buffer
from pomona.messages.control import Pipeline
from pomona.messages.pipeline import Guess, Step, Tensor
from pomona.models.store.remote_source import RemoteSource
from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona_stage_worker.compute_backend import ComputeBackend
from pomona_stage_worker.hardware.benchmark import Speed
from pomona_stage_worker.loading import Progress, StageWeights
from pomona_stage_worker.model.cache_table import CacheTable
from pomona_stage_worker.model.mlx_stage import Computation, Stage, StepOutput
from pomona_stage_worker.model.warmup import NO_WARMUP
from pomona_stage_worker.sampling.sampler import uniform
from pomona_stage_worker.sampling.sequence_state import SequenceSampler
from pomona_stage_worker.sampling.tail_results import SamplerOutput, TokenResult
from pomona_stage_worker.settings import StageWorkerSettings
from pomona_stage_worker.speculation.draft import Proposal
from pomona_stage_worker.worker import StageWorker

INITIAL_OVERSLEEP_S = 0.0001
"""Expected delay of a wake-up before the first was measured; the step spins for the rest."""
FIRST_TOKEN, TOKENS = 1000, 20000
"""Range of made-up ids, in which the embedded model has plain words."""


class EmulatedSettings(StageWorkerSettings):
    model_config = SettingsConfigDict(env_prefix="POMONA_STAGE_WORKER_")
    section: ClassVar[str] = "emulated"

    hold_ms: float = Field(default=10.0, ge=0, le=10000)
    """Duration of every step, milliseconds."""
    width: int = Field(default=576, ge=1, le=65536)
    """Float32 activations sent to the next stage for each token."""
    acceptance: float | None = Field(default=None, ge=0, le=1)
    """Share of guesses that are right; without it nothing is guessed."""
    max_width: int = Field(default=1, ge=1, le=64)
    """Most tokens of a step with guesses, which takes as long as one token."""


class EmulatedStage:
    """A stage whose steps only take time. Its caches are empty lists, so ops cost what they cost
    without MLX."""

    can_batch = True
    can_slice = True
    can_roll_back = True
    has_experts = False
    warmup = NO_WARMUP

    def __init__(self, hold_s: float, width: int, is_tail: bool, max_width: int = 1) -> None:
        self.max_width = max_width
        self._hold_s = hold_s
        self._width = width
        self._is_tail = is_tail
        self._oversleep_s = INITIAL_OVERSLEEP_S
        self._table = CacheTable(list[Any])
        self._samplers: dict[int, SequenceSampler] = {}
        set_timer_slack()

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        until = time.perf_counter() + self._hold_s
        for op in step.ops:
            self._table.apply(op)
            if self._is_tail and isinstance(op, Open):
                self._samplers[op.seq] = SequenceSampler.from_open(op)
            elif isinstance(op, Close):
                self._samplers.pop(op.seq, None)
            elif self._is_tail and isinstance(op, Rollback):
                self._samplers[self._table.lanes[op.lane].rows[0]].rollback()
        if not step.rows:
            return Computation((), time.monotonic_ns(), StepOutput)
        tensors_out: tuple[Tensor, ...] = ()
        if self._is_tail:
            samplers = [self._samplers[seq] for seq in step.rows] if step.sample else []
            if step.guess is not None:
                results = _verify(samplers[0], step.guess, memoryview(buffers[0]).cast("B"))
                if not results:
                    return Computation((), time.monotonic_ns(), StepOutput)
            else:
                results = [s.accept(_made_up(s)) for s in samplers]
            output = StepOutput(token_results=tuple(results))
        else:
            rows, length = tensors[0].shape
            tensors_out = (Tensor("float32", (rows, length, self._width)),)
            output = StepOutput((bytes(4 * rows * length * self._width),))

        def finish() -> StepOutput:
            self._sleep_until(until)
            return output

        return Computation(tensors_out, time.monotonic_ns(), finish, is_async=True)

    def prebuild(self) -> bool:
        return False

    def table(self) -> dict[str, Any]:
        return self._table.table()

    def cache_bytes(self) -> int:
        return 0

    def prefix_bytes(self) -> int:
        return 0

    def _sleep_until(self, until: float) -> None:
        """Returns at ``until`` exactly, and spins only briefly: other stages need the cores."""
        wake_at = until - self._oversleep_s
        left = wake_at - time.perf_counter()
        if left > 0:
            time.sleep(left)
            oversleep_s = time.perf_counter() - wake_at
            # Converges to the first quartile of wake-up delays. Longer delays come from busy
            # processors, which spinning would keep busier.
            self._oversleep_s += 2e-6 if oversleep_s > self._oversleep_s else -6e-6
        while time.perf_counter() < until:
            pass


def _verify(sampler: SequenceSampler, guess: Guess, ids: memoryview) -> list[TokenResult]:
    """Samples after each token of a step with guesses, up to the first wrong one."""
    tokens = ids.cast("i").tolist()
    if not sampler.begin_guess(guess, tokens):
        return []
    results = [sampler.accept(_made_up(sampler))]
    for at in range(1, len(tokens)):
        if not sampler.follows(tokens[at], len(tokens) - at):
            break
        results.append(sampler.accept(_made_up(sampler)))
    return results


def made_up_token(seq: int, index: int) -> int:
    """Returns the token that an emulated tail samples at ``index`` of a sequence's reply."""
    return FIRST_TOKEN + (index * 7919 + seq) % TOKENS


def _made_up(sampler: SequenceSampler) -> SamplerOutput:
    return SamplerOutput(made_up_token(sampler.opened.seq, sampler.index))


class ForcedSource:
    """Guesses what an emulated tail will sample, and is wrong as often as is wanted.

    Args:
        acceptance: share of guesses that are right.
    """

    name = "forced"
    guess_us = 0.0
    failure = ""
    priors = (0.5,)

    def __init__(self, acceptance: float) -> None:
        self._acceptance = acceptance

    def drafter(
        self, seq: int, tenant: str, prompt: int, prediction: Sequence[int]
    ) -> ForcedDrafter:
        return ForcedDrafter(self._acceptance, seq, prompt)


class ForcedDrafter:
    """Guesses the tokens of one sequence."""

    offers = 0

    def __init__(self, acceptance: float, seq: int, prompt: int) -> None:
        self._acceptance = acceptance
        self._seq = seq
        self._prompt = prompt

    def propose(self, tokens: Sequence[int], guesses: Sequence[int], count: int) -> list[Proposal]:
        first = len(tokens) + len(guesses) - self._prompt
        return [Proposal(self._guess(first + n), ForcedSource.name) for n in range(count)]

    def missed(self) -> None: ...

    def close(self) -> None: ...

    def _guess(self, index: int) -> int:
        is_right = uniform(self._seq, index) < self._acceptance
        return made_up_token(self._seq, index) if is_right else 0


def emulated_backend(settings: EmulatedSettings) -> ComputeBackend:
    def read(
        source: str,
        start: int,
        stop: int,
        progress: Progress,
        have: StageWeights | None,
        peers: Sequence[RemoteSource],
    ) -> StageWeights:
        def no_model() -> Any:
            raise NotImplementedError("an emulated stage has no model")

        return StageWeights(source, start, stop, no_model, {})

    def make(weights: StageWeights, pipeline: Pipeline) -> Stage:
        is_tail = weights.stop == pipeline.layer_count
        return EmulatedStage(settings.hold_ms / 1000, settings.width, is_tail, settings.max_width)

    forced = settings.acceptance
    sources = () if forced is None else (ForcedSource(forced),)
    return ComputeBackend("emulated", lambda _: Speed(), read, make, draft_sources=sources)


def set_timer_slack() -> None:
    """Makes Linux end sleeps on time; by default they may end 50 us late."""
    if host.is_linux():
        pr_set_timerslack = 29
        ctypes.CDLL(None).prctl(pr_set_timerslack, 1, 0, 0, 0)


def main() -> None:
    settings = settings_or_exit(EmulatedSettings)
    backend = emulated_backend(settings)
    run_service(settings.instance, settings, lambda stop: StageWorker(settings, backend).run(stop))


if __name__ == "__main__":
    main()
