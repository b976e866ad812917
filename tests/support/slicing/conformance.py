"""Compares the stages of a model, bit for bit, with the whole model.

`conform` runs the same sessions on the whole model, on every pair of stages and on three uneven
stages: whole and chunked prompts, decoding, copied and trimmed caches, and batches that mlx-lm
merges, extends, filters, extracts and pads. Each stage runs on a model of its own, with NaN in
the parameters of other stages.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import make_prompt_cache

from pomona_stage_worker.slicing import ModelStructure, StageModel
from support.slicing.families import build, randomise
from support.slicing.kernel_use import kernels_reached

# The cache list of each stage.
Caches = dict[Any, list[Any]]
FIRST = mx.array([[3, 14, 15, 9, 26, 5, 35]])
SECOND = mx.array([[8, 9, 7, 9, 32, 38, 46, 26, 43]])
THIRD = mx.array([[2, 7, 1]])


@dataclass(frozen=True)
class Outcome:
    """Result of one row of the table of families.

    Attributes:
        arrays: number of arrays that cross each cut.
        failures: differences from the whole model, each with its cut.
        kernels: Metal kernels of mlx-lm reached on a Mac.
    """

    layer_count: int
    cuts: list[int]
    arrays: list[int]
    batches: bool
    trims: bool
    uncuttable_reason: str | None
    failures: list[str]
    kernels: tuple[str, ...] = ()


class Pipeline:
    """Runs consecutive stages, or a whole model, step by step."""

    def __init__(self, stages: list[Any], make_cache: Callable[[Any], list[Any]]) -> None:
        self._stages = stages
        self._make_cache = make_cache

    def caches(self) -> Caches:
        return {stage: self._make_cache(stage) for stage in self._stages}

    def step(self, tokens: mx.array, caches: Caches, **options: Any) -> Any:
        activations: Any = None
        for stage, cache in caches.items():
            if stage is self._stages[-1]:
                activations = stage(tokens, activations, cache, **options)
            else:
                activations = stage(tokens, activations, cache)
            mx.eval(activations, [entry.state for entry in stage.owned_caches(cache)])
        return activations


class Whole:
    """Runs an uncut model as a single stage."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, tokens: mx.array, _: None, cache: list[Any]) -> mx.array:
        logits = self.model(tokens, cache=cache)  # type: ignore[operator]  # Module has no __call__
        return logits[0] if isinstance(logits, tuple) else logits

    def owned_caches(self, cache: list[Any]) -> list[Any]:
        return cache


def whole(model: nn.Module) -> Pipeline:
    return Pipeline([Whole(model)], lambda _: make_prompt_cache(model))


def single_sequences(pipeline: Pipeline) -> Iterator[tuple[str, mx.array, Caches]]:
    """Runs sequences one by one. Yields the step's name, logits and caches."""
    first, second = pipeline.caches(), pipeline.caches()
    yield "prompt", pipeline.step(FIRST, first), first
    yield "decode", pipeline.step(THIRD[:, :1], first), first
    yield "first chunk", pipeline.step(SECOND[:, :4], second), second
    yield "second chunk", pipeline.step(SECOND[:, 4:], second), second
    forked = {stage: copy.deepcopy(cache) for stage, cache in second.items()}
    yield "decode", pipeline.step(THIRD[:, 1:2], second), second
    yield "fork", pipeline.step(THIRD, forked), forked
    short = pipeline.caches()
    yield "short prompt", pipeline.step(SECOND[:, :5], short), short
    if trimmable(short):
        for cache in short.values():
            for entry in cache:
                entry.trim(2)
        yield "after trim", pipeline.step(THIRD, short), short
    if trimmable(first):
        for cache in first.values():
            for entry in cache:
                entry.trim(3)
        yield "after long trim", pipeline.step(THIRD[:, :2], first), first


def batched(pipeline: Pipeline) -> Iterator[tuple[str, mx.array, Caches]]:
    """Runs batches that sequences join and leave. Each is prefilled by itself."""
    prefilled: list[Caches] = []
    for prompt in (FIRST, SECOND, THIRD):
        caches = pipeline.caches()
        pipeline.step(prompt, caches)
        prefilled.append(caches)
    batch = merged(prefilled[:2])
    yield "merged", pipeline.step(mx.array([[1], [2]]), batch), batch
    yield "merged again", pipeline.step(mx.array([[3], [4]]), batch), batch
    joining = merged(prefilled[2:])
    for stage, cache in batch.items():
        for entry, other in zip(cache, joining[stage], strict=True):
            entry.extend(other)
    yield "extended", pipeline.step(mx.array([[5], [6], [7]]), batch), batch
    for cache in batch.values():
        for entry in cache:
            entry.filter(mx.array([0, 2]))
    yield "filtered", pipeline.step(mx.array([[8], [9]]), batch), batch
    left = {stage: [e.extract(1) for e in cache] for stage, cache in batch.items()}
    yield "extracted", pipeline.step(mx.array([[10]]), left), left
    yield "left", pipeline.step(mx.array([[11], [12]]), batch), batch


def padded(pipeline: Pipeline) -> Iterator[tuple[str, mx.array, Caches]]:
    """Prefills sequences of different lengths as one padded batch."""
    prompts = [cast("list[list[int]]", p.tolist())[0] for p in (FIRST, SECOND, THIRD)]
    lengths = [len(prompt) for prompt in prompts]
    missing = [max(lengths) - length for length in lengths]
    batch = merged([pipeline.caches() for _ in prompts])
    for cache in batch.values():
        for entry in cache:
            entry.prepare(lengths=lengths, right_padding=missing)
    tokens = mx.array([p + [0] * m for p, m in zip(prompts, missing, strict=True)])
    yield "padded", pipeline.step(tokens, batch), batch
    for cache in batch.values():
        for entry in cache:
            entry.finalize()
    yield "after padding", pipeline.step(mx.array([[1], [2], [3]]), batch), batch


def merged(sequences: list[Caches]) -> Caches:
    return {
        stage: [
            entries[0].merge(list(entries))
            for entries in zip(*(caches[stage] for caches in sequences), strict=True)
        ]
        for stage in sequences[0]
    }


def trimmable(caches: Caches) -> bool:
    return all(entry.is_trimmable() for cache in caches.values() for entry in cache)


def conform(row: str) -> Outcome:
    """Cuts one row of `FAMILIES` in every way and compares the logits."""
    model = build(row)
    randomise(model)
    structure = ModelStructure(model)
    count, cuts = structure.layer_count, sorted(structure.boundaries)
    arrays = [len(structure.boundaries[cut]) for cut in cuts]
    with kernels_reached() as kernels:
        singles = session_of(single_sequences, model)
        if not singles:
            return Outcome(count, cuts, arrays, False, False, structure.uncuttable_reason, [])
        batches = session_of(batched, model)
    expected = {single_sequences: singles, batched: batches, padded: session_of(padded, model)}

    splits = [[0, cut, count] for cut in cuts] or [[0, count]]
    if len(cuts) > 1:
        splits.append([0, cuts[0], cuts[-1], count])
    ranges = {ends for split in splits for ends in pairwise(split)}
    stages = {ends: poisoned_stage(row, model, structure, *ends) for ends in ranges}
    failures: list[str] = []
    for split in splits:
        pipeline = Pipeline([stages[ends] for ends in pairwise(split)], StageModel.make_cache)
        found: list[str] = []
        for session, right in expected.items():
            if right:
                found += differences(session(pipeline), right)
        if split is splits[-1]:
            found += differences_with_fewer_logits(pipeline)
        failures += [f"{split}: {difference}" for difference in found]
    trims = any(name == "after trim" for name, _ in singles)
    return Outcome(
        count,
        cuts,
        arrays,
        bool(batches),
        trims,
        structure.uncuttable_reason,
        failures,
        tuple(sorted(kernels)),
    )


def session_of(
    session: Callable[[Pipeline], Iterator[tuple[str, mx.array, Caches]]], model: nn.Module
) -> list[tuple[str, mx.array]]:
    """Returns the steps of a session of the whole model; empty if mlx-lm itself cannot run it."""
    try:
        return [(name, logits) for name, logits, _ in session(whole(model))]
    except (AttributeError, TypeError, ValueError):
        return []


def poisoned_stage(
    row: str, model: nn.Module, structure: ModelStructure, start: int, stop: int
) -> StageModel:
    """Returns a stage of a model in which only the stage's own parameters are valid."""
    own = build(row)
    owned = structure.parameters(model, start, stop)
    poison = {
        name: array
        if name in owned
        else mx.full(array.shape, float("nan"), array.dtype)
        if mx.issubdtype(array.dtype, mx.floating)
        else mx.full(array.shape, 7, array.dtype)
        for name, array in dict(tree_flatten(model.parameters())).items()
    }
    own.update(tree_unflatten(list(poison.items())))
    return StageModel(own, ModelStructure(own), start, stop)


def differences(
    session: Iterator[tuple[str, mx.array, Caches]], expected: list[tuple[str, mx.array]]
) -> list[str]:
    """Returns the steps of a session whose logits or caches differ from those expected."""
    found: list[str] = []
    steps: list[str] = []
    for (name, logits, caches), (_, right) in zip(session, expected, strict=False):
        steps.append(name)
        if not mx.array_equal(logits, right):
            found.append(f"{name}: logits differ")
        for stage, cache in caches.items():
            owned = {id(entry) for entry in stage.owned_caches(cache)}
            if any(entry.nbytes for entry in cache if id(entry) not in owned):
                found.append(f"{name}: a phantom takes memory")
    if steps != [name for name, _ in expected]:
        found.append("the session has other steps")
    return found


def differences_with_fewer_logits(pipeline: Pipeline) -> list[str]:
    """Returns differences when the tail computes logits of the last position only, or none."""
    every, last, none = pipeline.caches(), pipeline.caches(), pipeline.caches()
    right = pipeline.step(SECOND, every)[:, -1:]
    found: list[str] = []
    if not mx.array_equal(pipeline.step(SECOND, last, logits="last"), right):
        found.append("logits of the last position differ")
    if pipeline.step(SECOND, none, logits="none") is not None:
        found.append("logits were computed though none were requested")
    right = pipeline.step(THIRD, every)
    for caches in (last, none):
        if not mx.array_equal(pipeline.step(THIRD, caches), right):
            found.append("the next step differs")
    return found
