"""Decides whether a service that was started again serves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pomona.messages.control import Beacon, GatewayFacts, PlannerFacts, StageWorkerFacts


def serves(beacon: Beacon, models: Collection[str], beacons: Mapping[str, Beacon]) -> bool:
    """Tells whether a service is ready, and a token has come through the current pipeline of each
    of ``models``.

    A model without a plan was unloaded, and is not waited for. Without any gateway, the state of
    the stages decides.

    Args:
        beacons: the newest beacon of each live service.
    """
    if beacon.state != "ready":
        return False
    planned = {
        pipeline.model: pipeline
        for other in beacons.values()
        if isinstance(other.facts, PlannerFacts)
        for pipeline in other.facts.pipelines
    }
    gateways = [x.facts for x in beacons.values() if isinstance(x.facts, GatewayFacts)]
    for pipeline in (planned[model] for model in models if model in planned):
        if pipeline.state != "active" or not _is_loaded(pipeline.model, pipeline.epoch, beacons):
            return False
        epochs = [gateway.proven_epochs.get(pipeline.model) for gateway in gateways]
        if epochs and pipeline.epoch not in epochs:
            return False
    return True


def paused_answers(beacons: Mapping[str, Beacon]) -> int:
    """Returns the answers that wait for their pipeline, in all gateways."""
    return sum(x.facts.paused for x in beacons.values() if isinstance(x.facts, GatewayFacts))


def _is_loaded(model: str, epoch: int, beacons: Mapping[str, Beacon]) -> bool:
    """Tells whether all stages of an epoch that workers state are ready, and there are some."""
    states = [
        stage.state
        for beacon in beacons.values()
        if isinstance(beacon.facts, StageWorkerFacts)
        for stage in beacon.facts.stages
        if (stage.model, stage.epoch) == (model, epoch)
    ]
    return bool(states) and set(states) == {"ready"}
