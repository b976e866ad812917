"""Several models share the memory of a node."""

from __future__ import annotations

from pomona.messages.control import Beacon, Pipeline, Stage, StageWorkerFacts
from pomona_planner.cost_model.cache_sharing import (
    PlacedModel,
    fair_cache_tokens,
    subtract_placed_models,
)
from pomona_planner.cost_model.memory import WORKSPACE_BYTES, cache_bytes_per_token, weight_bytes
from support.beacons import GIB, beacon_of
from support.planner_beacons import FACTS


def worker(name: str, node: str, memory: int) -> Beacon:
    return beacon_of(
        "stage_worker",
        node,
        name=name,
        facts={"usable_memory_bytes": memory},
        endpoints={"data": f"tcp://{name}"},
    )


def memory(beacon: Beacon) -> int:
    assert isinstance(beacon.facts, StageWorkerFacts)
    return beacon.facts.usable_memory_bytes


def placed(epoch: int, tokens: int, *stages: tuple[str, int, int]) -> PlacedModel:
    model = f"m{epoch}"
    pipeline = Pipeline(
        model,
        model,
        epoch,
        30,
        "active",
        tuple(Stage(name, a, b, f"tcp://{name}") for name, a, b in stages),
        8192,
        tokens,
    )
    return PlacedModel(pipeline, FACTS)


def test_a_placed_model_reduces_the_memory_of_all_workers_on_its_nodes() -> None:
    workers = [
        worker("w0", "n0", 8 * GIB),
        worker("w1", "n0", 8 * GIB),
        worker("w2", "n1", 8 * GIB),
    ]
    other = placed(1, 1000, ("w0", 0, 15), ("w2", 15, 30))
    left = [memory(beacon) for beacon in subtract_placed_models(workers, [other])]
    taken = weight_bytes(FACTS, 0, 15, True) + WORKSPACE_BYTES
    taken += int(1000 * cache_bytes_per_token(FACTS, 0, 15, True, 0))
    assert left[0] == left[1] == 8 * GIB - taken
    assert left[2] < 8 * GIB


def test_models_on_one_node_share_its_caches_and_a_lone_model_is_not_limited() -> None:
    workers = [worker("w0", "n0", 8 * GIB), worker("w1", "n1", 8 * GIB)]
    first, second = placed(1, 10**6, ("w0", 0, 30)), placed(2, 10**6, ("w0", 0, 30))
    alone = placed(3, 10**6, ("w1", 0, 30))
    assert fair_cache_tokens([first], workers) == {}
    caps = fair_cache_tokens([first, second, alone], workers)
    assert caps.keys() == {1, 2}
    per_token = cache_bytes_per_token(FACTS, 0, 30, True, 0)
    weights = weight_bytes(FACTS, 0, 30, True) + WORKSPACE_BYTES
    assert sum(caps.values()) * per_token + 2 * weights <= 8 * GIB
    assert caps[1] == caps[2] > 8192
