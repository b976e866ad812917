"""One stage of one pipeline: its layers, its caches and, on the tail, the sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from pomona.errors import ProtocolError
from pomona.messages.cache_ops import Close, Join, Leave, Open, Rollback, Trim
from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Guess, Step, Tensor
from pomona_stage_worker.model.activation_bytes import (
    as_own_dtypes,
    describe,
    exportable,
    from_bytes,
    to_bytes,
)
from pomona_stage_worker.model.cache_table import CacheTable, Lane
from pomona_stage_worker.model.guess_log import CacheSnapshot, can_roll_back, can_trim
from pomona_stage_worker.model.layer_caches import (
    Caches,
    cache_arrays,
    can_batch,
    can_slice,
    new_caches,
)
from pomona_stage_worker.model.pooling import pool_last_token
from pomona_stage_worker.model.prebuilt_step import PrebuiltStep, prebuild_step
from pomona_stage_worker.model.warmup import NO_WARMUP, WarmupTiming, zero_activations
from pomona_stage_worker.sampling.grammar_mask import GrammarCompiler
from pomona_stage_worker.sampling.prompt_logprobs import PromptLogprobs
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.sampling.sampler import sample_tokens, sampler_outputs, wants_logprobs
from pomona_stage_worker.sampling.sequence_state import SequenceSampler
from pomona_stage_worker.sampling.tail_results import PromptResult, TokenResult
from pomona_stage_worker.slicing import Logits, StageModel


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Results of a step.

    Attributes:
        buffers: activations for the next stage; none on the tail.
        token_results: on the tail, one for each row that was sampled. With guesses, one for each
            token of the step up to the first wrong guess.
        prompt_result: on the tail, the prompt's logprobs or embedding if requested.
    """

    buffers: tuple[Buffer, ...] = ()
    token_results: tuple[TokenResult, ...] = ()
    prompt_result: PromptResult | None = None

    @property
    def sampled(self) -> list[SampledToken]:
        """The sampled tokens as the head gets them."""
        return [result.sampled for result in self.token_results]


@dataclass(frozen=True, slots=True)
class Computation:
    """A step in progress.

    Attributes:
        tensors: dtypes and shapes of the output's buffers; none on the tail.
        built_ns: time.monotonic_ns() when the graph was built and the computation started.
        finish: waits for the output.
        is_async: the computation completes without this thread, so a late call of ``finish``
            delays nothing.
    """

    tensors: tuple[Tensor, ...]
    built_ns: int
    finish: Callable[[], StepOutput]
    is_async: bool = False


class Stage(Protocol):
    """The interface between the step loop and a stage, real or emulated.

    Attributes:
        can_roll_back: whether guessed tokens can be removed from the caches exactly.
        has_experts: whether the model routes tokens to experts.
        max_width: most tokens of a step with guesses, for which it gives the bits of
            single steps.
    """

    can_batch: bool
    can_slice: bool
    can_roll_back: bool
    has_experts: bool
    max_width: int
    warmup: WarmupTiming

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        """Applies the step's ops, then starts to compute its rows.

        Args:
            tensors, buffers: token ids, int32 (rows, length), then the activations of the
                previous stage; empty if the step carries only ops.
        """
        ...

    def prebuild(self) -> bool:
        """Builds a step in advance while no message waits. Returns False if there is none."""
        ...

    def table(self) -> dict[str, Any]:
        """Returns the cache table, on which all stages of the pipeline must agree."""
        ...

    def cache_bytes(self) -> int: ...

    def prefix_bytes(self) -> int:
        """Returns the part of ``cache_bytes`` for cached prefixes."""
        ...


class MlxStage:
    """A stage that computes with MLX. Used by one thread only.

    Args:
        cache_bits: quantises keys and values to this many bits; 0 does not quantise.
        grammars: compiles the grammars of replies; needed on the tail.
        warmup: times of the stage's warm-up steps.
        builds_beside: prebuild other lanes' steps while one is computed. For devices apart from
            the processor, where Python would otherwise be idle meanwhile.
        max_width: most tokens of a step with guesses that give the bits of single steps.
    """

    def __init__(
        self,
        model: StageModel,
        cache_bits: int = 0,
        grammars: GrammarCompiler | None = None,
        warmup: WarmupTiming = NO_WARMUP,
        builds_beside: bool = False,
        max_width: int = 1,
    ) -> None:
        self.warmup = warmup
        self._builds_beside = builds_beside
        self._model = model
        self._dtypes = tuple(array.dtype for array in zero_activations(model))
        self._grammars = grammars
        # A bound method here would be a reference cycle, which keeps the weights until the
        # garbage collector runs.
        make_caches = partial(new_caches, model, cache_bits)
        self._table = CacheTable(make_caches)
        self._samplers: dict[int, SequenceSampler] = {}
        self._prompt_logprobs = PromptLogprobs()
        self._prebuilt: dict[int, PrebuiltStep] = {}
        self._last_inputs: dict[int, tuple[Tensor, ...]] = {}
        caches = make_caches()
        self.can_batch = can_batch(caches)
        self.can_slice = can_slice(caches)
        self.can_roll_back = can_roll_back(caches)
        self.has_experts = any(
            isinstance(module, SwitchLinear | QuantizedSwitchLinear)
            for module in model.model.modules()
        )
        self.max_width = max_width if can_trim(caches) else 1

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        for op in step.ops:
            if isinstance(op, Join | Leave):
                self._last_inputs.pop(op.lane, None)
                self._discard_prebuilt(op.lane)
            elif isinstance(op, Rollback) and self._undoes(op):
                self._discard_prebuilt(op.lane)
            self._table.apply(op)
            if self._model.is_tail:
                self._apply_on_tail(op)
            if isinstance(op, Close | Trim):
                self._evaluate_prefix(op)
        if not step.rows:
            return Computation((), time.monotonic_ns(), StepOutput)
        _check_tokens(step, tensors)
        caches = self._caches_of(step)
        guessed = _guessed_ids(step, buffers)
        if step.guess is not None and self._model.is_tail:
            sampler = self._samplers[step.rows[0]]
            if not sampler.begin_guess(step.guess, guessed):
                return Computation((), time.monotonic_ns(), StepOutput)
        output, cached = self._build(step, tensors, buffers, caches)
        built_ns = time.monotonic_ns()
        if step.lane is not None and tensors[0].shape[1] == 1:
            self._last_inputs[step.lane] = tuple(tensors)
        if not self._model.is_tail:
            activations = output if isinstance(output, tuple) else (output,)
            raw = [exportable(array) for array in activations]
            mx.async_eval(raw, cached)

            def finish() -> StepOutput:
                self._prebuild_beside(step)
                mx.eval(raw, cached)
                return StepOutput(tuple(to_bytes(array) for array in raw))

            tensors_out = tuple(describe(array) for array in activations)
            return Computation(tensors_out, built_ns, finish, is_async=True)
        mx.async_eval(cached)
        if len(guessed) > 1:
            return self._sample_guesses(step, output, guessed, built_ns)
        if step.sample and not self._embeds(step):
            return self._sample(step, output, built_ns)
        return Computation((), built_ns, lambda: self._finish_prompt(step, output, cached))

    def _sample(self, step: Step, output: mx.array, built_ns: int) -> Computation:
        """On the tail: samples a token for each row, and scores the prompt if requested."""
        samplers = [self._samplers[seq] for seq in step.rows]
        logits = output[:, -1, :].astype(mx.float32)
        tokens = sample_tokens(logits, samplers)
        mx.async_eval(tokens)

        def finish() -> StepOutput:
            self._prebuild_beside(step)
            prompt_result = self._score_prompt(step, output)
            sampled = sampler_outputs(tokens, logits, samplers)
            results = tuple(s.accept(t) for s, t in zip(samplers, sampled, strict=True))
            return StepOutput(token_results=results, prompt_result=prompt_result)

        is_async = step.lane is not None and not any(map(wants_logprobs, samplers))
        return Computation((), built_ns, finish, is_async)

    def _sample_guesses(
        self, step: Step, output: mx.array, tokens: Sequence[int], built_ns: int
    ) -> Computation:
        """On the tail: samples after each token of the step, up to the first wrong guess."""
        sampler = self._samplers[step.rows[0]]

        def finish() -> StepOutput:
            self._prebuild_beside(step)
            results: list[TokenResult] = []
            for at, _ in enumerate(tokens):
                if at and not sampler.follows(tokens[at], len(tokens) - at):
                    break
                logits = output[:, at, :].astype(mx.float32)
                (sampled,) = sampler_outputs(sample_tokens(logits, [sampler]), logits, [sampler])
                results.append(sampler.accept(sampled))
            return StepOutput(token_results=tuple(results))

        return Computation((), built_ns, finish)

    def _finish_prompt(self, step: Step, output: mx.array, cached: list[mx.array]) -> StepOutput:
        """On the tail, in a step without sampling: the prompt's logprobs or embedding."""
        self._prebuild_beside(step)
        if not step.sample:
            prompt_result = self._score_prompt(step, output)
            mx.eval(cached)
            return StepOutput(prompt_result=prompt_result)
        mx.eval(output, cached)
        result, prompt_result = pool_last_token(self._samplers[step.rows[0]], output)
        return StepOutput(token_results=(result,), prompt_result=prompt_result)

    def _score_prompt(self, step: Step, output: mx.array) -> PromptResult | None:
        if not self._prompt_logprobs.needs_logits(step):
            return None
        return self._prompt_logprobs.score_chunk(step, output)

    def _prebuild_beside(self, step: Step) -> None:
        if self._builds_beside:
            self.prebuild(except_lane=step.lane)

    def prebuild(self, except_lane: int | None = None) -> bool:
        """Builds a lane's next step, other than that of the lane that is being computed."""
        for number, tensors in self._last_inputs.items():
            lane = self._table.lanes.get(number)
            if lane is not None and number != except_lane and number not in self._prebuilt:
                rows = tuple(lane.rows)
                self._prebuilt[number] = prebuild_step(
                    self._model, lane.caches, rows, tensors, self._dtypes
                )
                return True
        return False

    def table(self) -> dict[str, Any]:
        return self._table.table()

    def cache_bytes(self) -> int:
        return self._table.nbytes()

    def prefix_bytes(self) -> int:
        return self._table.prefix_nbytes()

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
        """Returns the lazy output of a step and the arrays it leaves in this stage's caches. Uses
        the lane's prebuilt step if it matches."""
        prebuilt = self._prebuilt.pop(step.lane, None) if step.lane is not None else None
        if prebuilt is not None and not prebuilt.matches(step.rows, tensors):
            prebuilt.rollback()
            prebuilt = None
        if step.lane is not None:
            before = None if prebuilt is None else prebuilt.before
            _log_guess(self._table.lanes[step.lane], step.guess, tensors[0].shape[1], before)
        if prebuilt is not None:
            for item, buffer in zip(prebuilt.inputs, buffers, strict=True):
                item.fill(buffer)
            return prebuilt.output, prebuilt.cached
        arrays = [from_bytes(t, b) for t, b in zip(tensors, buffers, strict=True)]
        logits: Logits = "last" if step.sample else "none"
        if step.guess is not None and tensors[0].shape[1] > 1:
            logits = "all"
        if self._model.is_tail and self._prompt_logprobs.needs_logits(step):
            logits = "all"
        elif self._model.is_tail and self._embeds(step):
            logits = "hidden"
        activations = as_own_dtypes(arrays[1:], self._dtypes) or None
        output = self._model(arrays[0], activations, caches, logits=logits)
        return output, cache_arrays(self._model.owned_caches(caches))

    def _embeds(self, step: Step) -> bool:
        """On the tail: returns True if the step ends the prompt of an embedding request."""
        if not step.sample or step.lane is not None or not self._model.has_body:
            return False
        return self._samplers[step.rows[0]].sampling.embedding

    def _undoes(self, op: Rollback) -> bool:
        lane = self._table.lanes.get(op.lane)
        return lane is not None and lane.guesses.undoes(op.length)

    def _discard_prebuilt(self, lane: int) -> None:
        """Rolls back the prebuilt step of a lane whose rows or caches change."""
        prebuilt = self._prebuilt.pop(lane, None)
        if prebuilt is not None:
            prebuilt.rollback()

    def _apply_on_tail(self, op: object) -> None:
        if isinstance(op, Open):
            grammars = self._grammars if op.sampling.grammar else None
            constraint = grammars.constraint_for(op) if grammars is not None else None
            self._samplers[op.seq] = SequenceSampler.from_open(op, constraint)
        elif isinstance(op, Close):
            self._samplers.pop(op.seq, None)
        elif isinstance(op, Rollback):
            self._samplers[self._table.lanes[op.lane].rows[0]].rollback()
        self._prompt_logprobs.apply(op)

    def _evaluate_prefix(self, op: Close | Trim) -> None:
        """Evaluates a stored prefix now; a lazy one would keep the whole sequence in memory."""
        number = op.keep if isinstance(op, Close) else op.prefix
        if number is not None:
            mx.async_eval(cache_arrays(self._table.prefixes[number].caches))


def _guessed_ids(step: Step, buffers: Sequence[Buffer]) -> list[int]:
    """Returns the token ids of a step with guesses; none of any other."""
    return [] if step.guess is None else memoryview(buffers[0]).cast("B").cast("i").tolist()


def _log_guess(lane: Lane, guess: Guess | None, length: int, before: CacheSnapshot | None) -> None:
    """Notes how to undo a step with guesses. After any other step, all guesses are settled."""
    if guess is None:
        lane.guesses.clear()
    else:
        lane.guesses.add(lane.caches, guess.position, length, guess.confirmed, before)


def _check_tokens(step: Step, tensors: Sequence[Tensor]) -> None:
    first = tensors[0] if tensors else None
    if first is None or first.dtype != "int32" or len(first.shape) != 2:
        raise ProtocolError("a step's first tensor must be token ids, int32 (rows, length)")
    if first.shape[0] != len(step.rows):
        raise ProtocolError(
            f"token ids of shape {first.shape} do not fit a step of {len(step.rows)} rows"
        )
    if step.guess is not None and (step.lane is None or len(step.rows) != 1 or not step.sample):
        raise ProtocolError("a step with guesses must sample the only row of a lane")
