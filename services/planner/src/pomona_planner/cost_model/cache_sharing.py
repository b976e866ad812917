"""How several models share the memory of the workers: pure.

Weights come first. What they leave on a node is divided evenly among the models that are
there, for their caches; a model that is alone takes all of it.
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
    weight_bytes,
)

LEAST_CACHE_TOKENS = 8192
"""What a model that is there keeps for its caches, at least, when another one is to fit."""


@dataclass(frozen=True, slots=True)
class PlacedModel:
    """A model with stages on the workers."""

    pipeline: Pipeline
    facts: ModelFacts


def leave_room(workers: Sequence[Beacon], others: Iterable[PlacedModel]) -> list[Beacon]:
    """The workers, their usable memory without what other models need of it."""
    taken: dict[str, float] = {}
    for tenant in others:
        least = min(tenant.pipeline.cache_tokens, LEAST_CACHE_TOKENS)
        for node, (weights, per_token) in _on_nodes(tenant, workers).items():
            taken[node] = taken.get(node, 0) + weights + WORKSPACE_BYTES + per_token * least
    return [
        replace(worker, facts=_with_memory(worker, taken.get(worker.node, 0.0)))
        for worker in workers
    ]


def fair_cache_tokens(tenants: Sequence[PlacedModel], workers: Sequence[Beacon]) -> dict[int, int]:
    """By epoch, the most tokens that each model's caches may hold beside the others."""
    if len(tenants) < 2:
        return {}
    on_nodes = [_on_nodes(tenant, workers) for tenant in tenants]
    caps: dict[int, int] = {}
    for tenant, mine in zip(tenants, on_nodes, strict=True):
        for node, (_, per_token) in mine.items():
            here = [x[node] for x in on_nodes if node in x]
            memory = min(_memory(worker) for worker in workers if worker.node == node)
            left = memory - sum(weights + WORKSPACE_BYTES for weights, _ in here)
            if per_token and len(here) > 1:
                cap = int(max(left, 0) * FULL_CACHE_SHARE / len(here) / per_token)
                epoch = tenant.pipeline.epoch
                caps[epoch] = min(caps.get(epoch, cap), cap)
    return caps


def _on_nodes(tenant: PlacedModel, workers: Sequence[Beacon]) -> Mapping[str, tuple[int, float]]:
    """By node: bytes of the weights there, and bytes of one token in the caches there."""
    by_name = {worker.name: worker for worker in workers}
    found: dict[str, tuple[int, float]] = {}
    for stage in tenant.pipeline.stages:
        worker = by_name.get(stage.worker)
        if worker is None:
            continue
        whole = isinstance(worker.facts, StageWorkerFacts) and worker.facts.device != "metal"
        weights, per_token = found.get(worker.node, (0, 0.0))
        weights += weight_bytes(tenant.facts, stage.start, stage.stop, whole)
        per_token += cache_bytes_per_token(
            tenant.facts, stage.start, stage.stop, whole, tenant.pipeline.cache_bits
        )
        found[worker.node] = (weights, per_token)
    return found


def _memory(worker: Beacon) -> int:
    assert isinstance(worker.facts, StageWorkerFacts)
    return worker.facts.usable_memory_bytes


def _with_memory(worker: Beacon, taken: float) -> StageWorkerFacts:
    assert isinstance(worker.facts, StageWorkerFacts)
    left = max(0, worker.facts.usable_memory_bytes - int(taken))
    return replace(worker.facts, usable_memory_bytes=left)
