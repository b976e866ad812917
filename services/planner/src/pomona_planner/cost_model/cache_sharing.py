"""Division of the workers' memory among several models; pure functions.

Weights take precedence. The models on a node share the rest of its memory evenly for their
caches; a lone model on a node gets all the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pomona.messages.control import Beacon, Pipeline, StageWorkerFacts
from pomona.models import ModelFacts
from pomona_planner.cost_model.memory import (
    FULL_CACHE_SHARE,
    WORKSPACE_BYTES,
    cache_bytes_per_token,
    draft_bytes,
    usable_bytes,
    weight_bytes,
)

MIN_CACHE_TOKENS = 8192
"""Cache tokens that a placed model keeps at least when another one is planned."""


@dataclass(frozen=True, slots=True)
class PlacedModel:
    """A model with stages on the workers.

    Attributes:
        draft: small model on the head that guesses its tokens; None for none.
    """

    pipeline: Pipeline
    facts: ModelFacts
    draft: ModelFacts | None = None


def subtract_placed_models(
    workers: Sequence[Beacon], placed: Iterable[PlacedModel]
) -> list[Beacon]:
    """Returns the workers with their usable memory reduced by the needs of placed models."""
    taken: dict[str, float] = {}
    for model in placed:
        tokens = min(model.pipeline.cache_tokens, MIN_CACHE_TOKENS)
        for node, (weights, per_token) in _usage_by_node(model, workers).items():
            taken[node] = taken.get(node, 0) + weights + WORKSPACE_BYTES + per_token * tokens
    return [
        replace(worker, facts=_with_less_memory(worker, taken.get(worker.node, 0.0)))
        for worker in workers
    ]


def fair_cache_tokens(placed: Sequence[PlacedModel], workers: Sequence[Beacon]) -> dict[int, int]:
    """Returns the most cache tokens of each model beside the others, by epoch.

    A model that shares no node with another one is not in the result.
    """
    if len(placed) < 2:
        return {}
    usages = [_usage_by_node(model, workers) for model in placed]
    caps: dict[int, int] = {}
    for model, usage in zip(placed, usages, strict=True):
        for node, (_, per_token) in usage.items():
            on_node = [other[node] for other in usages if node in other]
            memory = min(_memory(worker) for worker in workers if worker.node == node)
            left = memory - sum(weights + WORKSPACE_BYTES for weights, _ in on_node)
            if per_token and len(on_node) > 1:
                cap = int(max(left, 0) * FULL_CACHE_SHARE / len(on_node) / per_token)
                epoch = model.pipeline.epoch
                caps[epoch] = min(caps.get(epoch, cap), cap)
    return caps


def _usage_by_node(
    model: PlacedModel, workers: Sequence[Beacon]
) -> Mapping[str, tuple[int, float]]:
    """Returns, by node, the bytes of the model's weights and of one token in its caches."""
    by_name = {worker.name: worker for worker in workers}
    usage: dict[str, tuple[int, float]] = {}
    for stage in model.pipeline.stages:
        worker = by_name.get(stage.worker)
        if worker is None:
            continue
        full = isinstance(worker.facts, StageWorkerFacts) and worker.facts.device != "metal"
        weights, per_token = usage.get(worker.node, (0, 0.0))
        weights += weight_bytes(model.facts, stage.start, stage.stop, full)
        if stage.start == 0 and model.draft is not None and model.pipeline.draft_source:
            weights += draft_bytes(model.draft, full)
        per_token += cache_bytes_per_token(
            model.facts, stage.start, stage.stop, full, model.pipeline.cache_bits
        )
        usage[worker.node] = (weights, per_token)
    return usage


def _memory(worker: Beacon) -> int:
    assert isinstance(worker.facts, StageWorkerFacts)
    return usable_bytes(worker.facts)


def _with_less_memory(worker: Beacon, taken: float) -> StageWorkerFacts:
    assert isinstance(worker.facts, StageWorkerFacts)
    left = max(0, worker.facts.usable_memory_bytes - int(taken))
    return replace(worker.facts, usable_memory_bytes=left)
