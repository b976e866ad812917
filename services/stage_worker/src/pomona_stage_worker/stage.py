"""One stage of one pipeline: its layers, its caches and, on the tail, its draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from pomona.codec import Buffer
from pomona.errors import ProtocolError
from pomona.messages.data import Close, Open, Step, Tensor, Trim
from pomona_stage_worker.caches import (
    Caches,
    CacheTable,
    cache_arrays,
    can_batch,
    can_slice,
    quantize,
)
from pomona_stage_worker.drawing import Drawing, Result
from pomona_stage_worker.sampling import draw
from pomona_stage_worker.slicing import StageModel


@dataclass(frozen=True, slots=True)
class Output:
    """What a step leaves: activations for the next stage, or, on the tail, tokens."""

    tensors: tuple[Tensor, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    results: tuple[Result, ...] = ()


class Stage(Protocol):
    """What the step loop needs of a stage. The emulated stage of the benchmarks is one too."""

    can_batch: bool
    can_slice: bool

    def run(self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]) -> Output:
        """Apply the step's ops, then run its rows.

        Args:
            tensors, buffers: as they arrived: token ids, int32 (rows, length), then the
                activations of the stage before. None when the step carries only ops.
        """
        ...

    def table(self) -> dict[str, Any]:
        """The cache table, on which all stages of the pipeline must agree."""
        ...

    def cache_bytes(self) -> int: ...


class MlxStage:
    """A stage that computes with MLX. To be used by one thread only.

    Args:
        cache_bits: quantise keys and values to this many bits; 0 leaves them.
    """

    def __init__(self, model: StageModel, cache_bits: int = 0) -> None:
        self._model = model
        self._cache_bits = cache_bits
        self._table = CacheTable(self._make_caches)
        self._drawings: dict[int, Drawing] = {}
        caches = self._make_caches()
        self.can_batch = can_batch(caches)
        self.can_slice = can_slice(caches)

    def run(self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]) -> Output:
        for op in step.ops:
            self._table.apply(op)
            if self._model.is_tail:
                self._note(op)
            if isinstance(op, Close | Trim):
                self._settle(op)
        if not step.rows:
            return Output()
        tokens, activations = _arrays(tensors, buffers)
        if tokens.shape[0] != len(step.rows):
            raise ProtocolError(f"{len(step.rows)} rows, but token ids of shape {tokens.shape}")
        caches = self._caches_of(step)
        owned = self._model.owned_caches(caches)
        logits = "last" if step.sample else "none"
        output = self._model(tokens, activations, caches, logits=logits)
        if not self._model.is_tail:
            passed = output if isinstance(output, tuple) else (output,)
            mx.eval(passed, cache_arrays(owned))
            described = [_describe(array) for array in (tokens, *passed)]
            return Output(tuple(t for t, _ in described), tuple(b for _, b in described))
        if not step.sample:
            mx.eval(cache_arrays(owned))
            return Output()
        mx.async_eval(cache_arrays(owned))
        drawings = [self._drawings[seq] for seq in step.rows]
        drawn = draw(output[:, -1, :], drawings)
        return Output(results=tuple(d.accept(t) for d, t in zip(drawings, drawn, strict=True)))

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

    def _note(self, op: object) -> None:
        if isinstance(op, Open):
            self._drawings[op.seq] = Drawing.begin(op)
        elif isinstance(op, Close):
            self._drawings.pop(op.seq, None)

    def _settle(self, op: Close | Trim) -> None:
        """Evaluate a kept part now, so that it does not hold on to the whole it came from."""
        number = op.keep if isinstance(op, Close) else op.prefix
        if number is not None:
            mx.async_eval(cache_arrays(self._table.prefixes[number].caches))


def _arrays(
    tensors: Sequence[Tensor], buffers: Sequence[Buffer]
) -> tuple[mx.array, tuple[mx.array, ...] | None]:
    """Token ids, and activations if there are any."""
    if not tensors or tensors[0].dtype != "int32" or len(tensors[0].shape) != 2:
        raise ProtocolError("a step's first tensor must be token ids, int32 (rows, length)")
    arrays = [_array(t, b) for t, b in zip(tensors, buffers, strict=True)]
    return arrays[0], tuple(arrays[1:]) or None


def _array(tensor: Tensor, buffer: Buffer) -> mx.array:
    if tensor.dtype == "bfloat16":
        raw = np.frombuffer(buffer, dtype=np.uint16).reshape(tensor.shape)
        return mx.array(raw).view(mx.bfloat16)
    return mx.array(np.frombuffer(buffer, dtype=tensor.dtype).reshape(tensor.shape))


def _describe(array: mx.array) -> tuple[Tensor, Buffer]:
    """Shape and raw bytes of an evaluated array; the bytes are not copied."""
    dtype = str(array.dtype).rpartition(".")[2]
    tensor = Tensor(dtype, tuple(array.shape))  # type: ignore[arg-type]  # checked by receivers
    plain = array.view(mx.uint16) if dtype == "bfloat16" else array
    return tensor, np.ascontiguousarray(plain).data.cast("B") if array.size else b""
