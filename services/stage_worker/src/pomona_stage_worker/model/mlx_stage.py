"""One stage of one pipeline: its layers, its caches and, on the tail, its draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from pomona.errors import ProtocolError
from pomona.messages.cache_ops import Close, Join, Leave, Open, Trim
from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Step, Tensor
from pomona_stage_worker.model.cache_table import (
    Caches,
    CacheTable,
    cache_arrays,
    can_batch,
    can_slice,
    quantize,
)
from pomona_stage_worker.model.prebuilt_step import PrebuiltStep, build_ahead
from pomona_stage_worker.model.warmup import NOT_TRIED, Trial
from pomona_stage_worker.sampling.grammar_mask import Grammars
from pomona_stage_worker.sampling.prompt_logprobs import PromptResult, PromptScores, embedded
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.sampling.sampler import begin_draw, end_draw, reports
from pomona_stage_worker.sampling.sequence_state import Result, SamplerOutput, SequenceSampler
from pomona_stage_worker.slicing import Logits, StageModel

NO_TOKEN = SamplerOutput(0)
"""Ends a sequence of which no token is wanted."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a step leaves: activations for the next stage, or, on the tail, tokens and what is
    asked for of a prompt."""

    buffers: tuple[Buffer, ...] = ()
    results: tuple[Result, ...] = ()
    of_prompt: PromptResult | None = None

    @property
    def sampled(self) -> list[SampledToken]:
        """What the head is told of ``results``."""
        return [result.sampled for result in self.results]


@dataclass(frozen=True, slots=True)
class Computation:
    """A step that is being computed.

    Attributes:
        tensors: what its output's buffers will hold; none on the tail.
        built_ns: when its graph was built and its computation began, by time.monotonic_ns.
        finish: waits for it.
        goes_on: without this thread, to its end: nothing is lost by a late call of ``finish``.
    """

    tensors: tuple[Tensor, ...]
    built_ns: int
    finish: Callable[[], Output]
    goes_on: bool = False


class Stage(Protocol):
    """What the step loop needs of a stage. The emulated stage of the benchmarks is one too."""

    can_batch: bool
    can_slice: bool
    trial: Trial

    def begin(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        """Apply the step's ops, then begin to compute its rows.

        Args:
            tensors, buffers: as they arrived: token ids, int32 (rows, length), then the
                activations of the stage before. None when the step carries only ops.
        """
        ...

    def prepare(self) -> bool:
        """Do something useful in advance while nothing has arrived. False when nothing is."""
        ...

    def table(self) -> dict[str, Any]:
        """The cache table, on which all stages of the pipeline must agree."""
        ...

    def cache_bytes(self) -> int: ...


class MlxStage:
    """A stage that computes with MLX. To be used by one thread only.

    Args:
        cache_bits: quantise keys and values to this many bits; 0 leaves them.
        grammars: makes the constraints of replies, on the tail.
        trial: of its steps, when there was one.
        builds_beside: build other lanes' next steps while one is computed. For devices that
            compute apart from the processor, which Python would else leave idle meanwhile.
    """

    def __init__(
        self,
        model: StageModel,
        cache_bits: int = 0,
        grammars: Grammars | None = None,
        trial: Trial = NOT_TRIED,
        builds_beside: bool = False,
    ) -> None:
        self.trial = trial
        self._builds_beside = builds_beside
        self._model = model
        self._cache_bits = cache_bits
        self._grammars = grammars
        self._table = CacheTable(self._make_caches)
        self._drawings: dict[int, SequenceSampler] = {}
        self._prompt_scores = PromptScores()
        self._ahead: dict[int, PrebuiltStep] = {}
        self._expected: dict[int, tuple[Tensor, ...]] = {}
        caches = self._make_caches()
        self.can_batch = can_batch(caches)
        self.can_slice = can_slice(caches)

    def begin(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        for op in step.ops:
            if isinstance(op, Join | Leave):
                self._take_back(op.lane)
            self._table.apply(op)
            if self._model.is_tail:
                self._note(op)
            if isinstance(op, Close | Trim):
                self._settle(op)
        if not step.rows:
            return Computation((), time.monotonic_ns(), Output)
        _check_tokens(step, tensors)
        caches = self._caches_of(step)
        output, cached = self._build(step, tensors, buffers, caches)
        built = time.monotonic_ns()
        if step.lane is not None:
            self._expected[step.lane] = tuple(tensors)
        if not self._model.is_tail:
            passed = output if isinstance(output, tuple) else (output,)
            mx.async_eval(passed, cached)

            def pass_on() -> Output:
                self._build_beside(step)
                mx.eval(passed, cached)
                return Output(tuple(_bytes(array) for array in passed))

            described = tuple(_describe(array) for array in passed)
            return Computation(described, built, pass_on, goes_on=True)
        mx.async_eval(cached)
        if step.sample and not self._embeds(step):
            return self._draw(step, output, built)
        return Computation((), built, lambda: self._end(step, output, cached))

    def _draw(self, step: Step, output: mx.array, built: int) -> Computation:
        """On the tail: the rows' draws, and what is told of a prompt."""
        drawings = [self._drawings[seq] for seq in step.rows]
        logits = output[:, -1, :].astype(mx.float32)
        tokens = begin_draw(logits, drawings)
        mx.async_eval(tokens)

        def finish() -> Output:
            self._build_beside(step)
            scores = self._scores(step, output)
            drawn = end_draw(tokens, logits, drawings)
            results = tuple(d.accept(t) for d, t in zip(drawings, drawn, strict=True))
            return Output(results=results, of_prompt=scores)

        goes_on = step.lane is not None and not any(map(reports, drawings))
        return Computation((), built, finish, goes_on)

    def _end(self, step: Step, output: mx.array, cached: list[mx.array]) -> Output:
        """On the tail, where nothing is drawn: what is told of a prompt, or its embedding."""
        self._build_beside(step)
        if not step.sample:
            scores = self._scores(step, output)
            mx.eval(cached)
            return Output(of_prompt=scores)
        drawing = self._drawings[step.rows[0]]
        mx.eval(output, cached)
        result = drawing.accept(NO_TOKEN)
        return Output(results=(result,), of_prompt=embedded(drawing.opened, output[0, -1]))

    def _scores(self, step: Step, output: mx.array) -> PromptResult | None:
        return self._prompt_scores.take(step, output) if self._prompt_scores.wanted(step) else None

    def _build_beside(self, step: Step) -> None:
        if self._builds_beside:
            self.prepare(but=step.lane)

    def prepare(self, but: int | None = None) -> bool:
        """Build a lane's next step. Args: but: the lane that is being computed."""
        for number, tensors in self._expected.items():
            lane = self._table.lanes.get(number)
            if lane is not None and number != but and number not in self._ahead:
                rows = tuple(lane.rows)
                self._ahead[number] = build_ahead(self._model, lane.caches, rows, tensors)
                return True
        return False

    def table(self) -> dict[str, Any]:
        return self._table.table()

    def cache_bytes(self) -> int:
        return self._table.nbytes()

    def _make_caches(self) -> Caches:
        caches = self._model.make_cache()
        if not self._cache_bits:
            return caches
        owned = {id(cache) for cache in self._model.owned_caches(caches)}
        return [quantize(c, self._cache_bits) if id(c) in owned else c for c in caches]

    def _caches_of(self, step: Step) -> Caches:
        if step.lane is None:
            return self._table.sequences[step.rows[0]]
        lane = self._table.lanes[step.lane]
        if tuple(lane.rows) != step.rows:
            raise ProtocolError(f"lane {step.lane} has rows {lane.rows}, not {step.rows}")
        return lane.caches

    def _build(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer], caches: Caches
    ) -> tuple[Any, list[mx.array]]:
        """The lazy output of a step and what it leaves in this stage's caches, built now unless
        built ahead."""
        ahead = self._ahead.pop(step.lane, None) if step.lane is not None else None
        if ahead is not None and ahead.fits(step.rows, tensors):
            for item, buffer in zip(ahead.inputs, buffers, strict=True):
                item.fill(buffer)
            return ahead.output, ahead.cached
        if ahead is not None:
            ahead.take_back()
        arrays = [_array(t, b) for t, b in zip(tensors, buffers, strict=True)]
        logits: Logits = "last" if step.sample else "none"
        if self._model.is_tail and self._prompt_scores.wanted(step):
            logits = "all"
        elif self._model.is_tail and self._embeds(step):
            logits = "hidden"
        output = self._model(arrays[0], tuple(arrays[1:]) or None, caches, logits=logits)
        return output, cache_arrays(self._model.owned_caches(caches))

    def _embeds(self, step: Step) -> bool:
        """On the tail: whether it is the embedding that is wanted of the step's prompt."""
        if not step.sample or step.lane is not None or not self._model.has_body:
            return False
        return self._drawings[step.rows[0]].sampling.embedding

    def _take_back(self, lane: int) -> None:
        """The lane changes: what was built or expected of it is void."""
        self._expected.pop(lane, None)
        ahead = self._ahead.pop(lane, None)
        if ahead is not None:
            ahead.take_back()

    def _note(self, op: object) -> None:
        if isinstance(op, Open):
            wanted = self._grammars if op.sampling.grammar else None
            constraint = wanted.begin(op) if wanted is not None else None
            self._drawings[op.seq] = SequenceSampler.begin(op, constraint)
        elif isinstance(op, Close):
            self._drawings.pop(op.seq, None)
        self._prompt_scores.note(op)

    def _settle(self, op: Close | Trim) -> None:
        """Evaluate a kept part now, so that it does not hold on to the whole it came from."""
        number = op.keep if isinstance(op, Close) else op.prefix
        if number is not None:
            mx.async_eval(cache_arrays(self._table.prefixes[number].caches))


def _check_tokens(step: Step, tensors: Sequence[Tensor]) -> None:
    first = tensors[0] if tensors else None
    if first is None or first.dtype != "int32" or len(first.shape) != 2:
        raise ProtocolError("a step's first tensor must be token ids, int32 (rows, length)")
    if first.shape[0] != len(step.rows):
        raise ProtocolError(f"{len(step.rows)} rows, but token ids of shape {first.shape}")


def _array(tensor: Tensor, buffer: Buffer) -> mx.array:
    if tensor.dtype == "bfloat16":
        raw = np.frombuffer(buffer, dtype=np.uint16).reshape(tensor.shape)
        return mx.array(raw).view(mx.bfloat16)
    return mx.array(np.frombuffer(buffer, dtype=tensor.dtype).reshape(tensor.shape))


def _describe(array: mx.array) -> Tensor:
    dtype = str(array.dtype).rpartition(".")[2]
    return Tensor(dtype, tuple(array.shape))  # type: ignore[arg-type]  # checked by receivers


def _bytes(array: mx.array) -> Buffer:
    """Raw bytes of an evaluated array, not copied."""
    plain = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return np.ascontiguousarray(plain).data.cast("B") if array.size else b""
