"""Control plane: what each service states of itself, once a second and at every change.

A beacon is whole, never a difference: a late subscriber needs no snapshot, and a lost
beacon costs a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from pomona.messages.discovery import DiscoveryFacts
from pomona.messages.limits import (
    MAX_ALERTS,
    MAX_MODELS,
    MAX_PIPELINES,
    MAX_STAGES,
    Count,
    Endpoint,
    LayerIndex,
    Name,
    Rate,
    Text,
)

ServiceName = Literal["discovery", "planner", "stage_worker", "gateway", "health_watcher"]
State = Literal["starting", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers ``[start, stop)`` of one model on the stage worker called ``worker``.

    ``endpoint`` is the data endpoint of that worker's process as it was when the plan was
    made: a worker that has started anew does not mistake the plan of its past for its own.
    ``address`` is where the stage before reaches it, when that is another: it is on the same
    machine, or the worker listens on every address and this is the best one as measured.
    """

    worker: Name
    start: LayerIndex
    stop: LayerIndex
    endpoint: Endpoint
    address: Endpoint = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the planner expects of a pipeline.

    Attributes:
        tokens_per_second: of one user alone.
        ceiling_tokens_per_second: the same, were nothing done but reading the weights.
        users: requests at once that ``users_tokens_per_second`` is for, all together.
        first_token_s: from a prompt of ``prompt_tokens`` to its first token, seconds.
        cache_tokens: tokens that fit into the caches of the tightest stage.
        stage_us: each stage's part of one user's token, microseconds.
        link_us: each link's, the way back from tail to head last.
        tail_us: what of the last one's the vocabulary head and the draw take.
        corrections: measured over predicted time that went into ``stage_us`` already,
            ``tail_correction`` into ``tail_us`` on top, and ``link_correction`` into ``link_us``.
        joules_per_token: when ``users`` are served; 0 when power is unknown.
        notes: what a person should know of how the plan came about.
    """

    tokens_per_second: Rate
    ceiling_tokens_per_second: Rate
    users: Count
    users_tokens_per_second: Rate
    prompt_tokens: Count
    first_token_s: Rate
    cache_tokens: Count
    stage_us: Annotated[tuple[Rate, ...], Field(max_length=MAX_STAGES)] = ()
    tail_us: Rate = 0.0
    link_us: Annotated[tuple[Rate, ...], Field(max_length=MAX_STAGES)] = ()
    corrections: Annotated[tuple[Rate, ...], Field(max_length=MAX_STAGES)] = ()
    tail_correction: Rate = 1.0
    link_correction: Rate = 1.0
    joules_per_token: Rate = 0.0
    notes: Annotated[tuple[Text, ...], Field(max_length=16)] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What the planner wants: the ordered stages that together hold one model.

    Attributes:
        model: the name clients use.
        source: where workers find it: a hub id with its commit, a folder, or a GGUF file.
        epoch: the version of this plan. It only rises.
        layer_count: the layers of the model; the stages cover ``[0, layer_count)``.
        state: ``forming`` until every stage says ready, then ``active``; ``impossible``
            when no plan exists, and ``reason`` says what is missing.
        context_length: tokens that prompt and reply of one request may have together.
        cache_tokens: tokens that fit in the caches of the tightest stage, all requests and
            kept prefixes together.
        cache_bits: keys and values are quantised to this many bits; 0 leaves them whole.
        vocab_size: token ids lie below this; 0 when it is not known.
        prediction: what to expect of it.
        proposal: a better plan, in words, when one would gain enough; it is not made while
            requests run.
    """

    model: Text
    source: Text
    epoch: Count
    layer_count: LayerIndex
    state: Literal["forming", "active", "impossible"]
    stages: Annotated[tuple[Stage, ...], Field(max_length=MAX_STAGES)] = ()
    context_length: Count = 0
    cache_tokens: Count = 0
    cache_bits: Literal[0, 2, 3, 4, 6, 8] = 0
    vocab_size: Count = 0
    reason: Text = ""
    prediction: Prediction | None = None
    proposal: Text = ""


@dataclass(frozen=True, slots=True)
class WantedModel:
    """The newest word on whether a model should be loaded.

    Attributes:
        name: what clients call it; ``source`` is where workers find it.
        at: Unix time in seconds of that word; 0 for the planner's settings.
    """

    name: Text
    source: Text
    loaded: bool
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class PlannerFacts:
    """Attributes: models: those that may be loaded, whether or not they should be now."""

    service: Literal["planner"] = field(default="planner", kw_only=True)
    pipelines: Annotated[tuple[Pipeline, ...], Field(max_length=MAX_PIPELINES)] = ()
    models: Annotated[tuple[WantedModel, ...], Field(max_length=MAX_MODELS)] = ()


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage as its worker has it.

    Attributes:
        loaded_bytes: weights in memory so far.
        total_bytes: weights this stage will hold.
        error: why the stage ``failed``: file, tensor and what to do.
        decode_us: measured: a step of one token of one sequence here, microseconds; of a trial
            until there was a request, 0 when there was none.
        tail_us: measured in the trial: what of it the vocabulary head and the draw take.
        prefill_us: measured: a prompt token in a long chunk here, microseconds.
        token_us: measured, on the head: from one token of a lone sequence to the next.
        fetched_bytes: of the weights that were not on this machine, those that came so far,
            of ``fetch_bytes``.
        sequence_tokens: on the head: tokens in the caches of requests that run; kept prefixes,
            which give way to them, are not counted.
    """

    model: Text
    epoch: Count
    start: LayerIndex
    stop: LayerIndex
    state: Literal["loading", "ready", "failed"]
    loaded_bytes: Count = 0
    total_bytes: Count = 0
    error: Text = ""
    decode_us: Rate = 0.0
    tail_us: Rate = 0.0
    prefill_us: Rate = 0.0
    token_us: Rate = 0.0
    fetched_bytes: Count = 0
    fetch_bytes: Count = 0
    sequence_tokens: Count = 0


@dataclass(frozen=True, slots=True)
class StageWorkerFacts:
    """Attributes:
    device: ``metal``, ``cuda`` or ``cpu``.
    usable_memory_bytes: what this worker may fill with weights and caches.
    resident_bytes: resident memory of the process now.
    cache_bytes: KV caches and prefixes held now.
    sequences: sequences with a cache in this worker.
    prefixes: prefixes kept for reuse.
    lanes: lanes in this worker.
    waiting: requests admitted by the head but not begun (0 elsewhere).
    tokens_per_second: what the tail produced over the last seconds (0 elsewhere).
    table: digest of the cache table, and the step after which it was taken, as
        ``step:digest``. Stages of one epoch that agree say the same for the same step.
    broken_epoch: newest epoch that failed here, which the planner must replace.
    broken_reason: why.
    memory_bandwidth: measured through MLX: bytes of weights read a second; 0 before.
    matrix_flops: measured through MLX: floating-point operations a second in products.
    layer_us: measured through MLX: small kernels of one layer, microseconds.
    mlx_version: of MLX.
    """

    service: Literal["stage_worker"] = field(default="stage_worker", kw_only=True)
    device: Text
    usable_memory_bytes: Count
    resident_bytes: Count
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=MAX_STAGES)] = ()
    cache_bytes: Count = 0
    sequences: Count = 0
    prefixes: Count = 0
    lanes: Count = 0
    waiting: Count = 0
    tokens_per_second: Annotated[float, Field(ge=0)] = 0.0
    table: Text = ""
    broken_epoch: Count = 0
    broken_reason: Text = ""
    memory_bandwidth: Rate = 0.0
    matrix_flops: Rate = 0.0
    layer_us: Rate = 0.0
    mlx_version: Text = ""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """That a model should be loaded, or not, as somebody asked a gateway.

    A gateway repeats it until the planner's beacon shows a word as new as this.

    Attributes:
        model: its name, or its source: a hub id, a folder or a GGUF file.
        name: what clients shall call it, when the planner does not know it yet.
        at: Unix time in seconds. The newest request counts.
    """

    model: Text
    name: Text
    loaded: bool
    at: float


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """Attributes:
    url: where clients reach the API.
    running: requests in the journal.
    proven_epochs: for each model, the epoch in which a real token last came through.
    requests: models that were asked to be loaded or unloaded, and not yet heard of.
    used: for each model, Unix time in seconds at which it was last asked something here.
    """

    service: Literal["gateway"] = field(default="gateway", kw_only=True)
    url: Text
    running: Count = 0
    proven_epochs: dict[str, int] = field(default_factory=dict[str, int])
    requests: Annotated[tuple[ModelRequest, ...], Field(max_length=MAX_MODELS)] = ()
    used: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong now.

    Attributes:
        key: identity of the alert: the same trouble has the same key.
        since: Unix time in seconds at which it was first seen.
    """

    key: Text
    severity: Literal["warning", "critical"]
    summary: Text
    since: float


@dataclass(frozen=True, slots=True)
class HealthWatcherFacts:
    service: Literal["health_watcher"] = field(default="health_watcher", kw_only=True)
    alerts: Annotated[tuple[Alert, ...], Field(max_length=MAX_ALERTS)] = ()


Facts = Annotated[
    DiscoveryFacts | PlannerFacts | StageWorkerFacts | GatewayFacts | HealthWatcherFacts,
    Field(discriminator="service"),
]


@dataclass(frozen=True, slots=True)
class Beacon:
    """Everything true of one service, said by itself.

    Attributes:
        cluster: beacons of another cluster are dropped.
        name: identity of the service in the cluster, stable over restarts.
        node: the machine it runs on.
        boot: random, new with every start of the process.
        seq: rises by one with every beacon of this boot.
        version: of Pomona.
        progress: counts finished work.
        queued: work begun or waiting. ``progress`` standing still while this is above
            zero is a hang, even though beacons arrive.
        endpoints: where it listens: ``data``, ``local`` (data, for its own machine), ``peer``,
            ``metrics``, ``http``.
        facts: what only this kind of service has to say; ``facts.service`` names the kind.
    """

    cluster: Name
    name: Name
    node: Name
    boot: Name
    seq: Count
    version: Text
    pid: Count
    state: State
    progress: Count
    queued: Count
    endpoints: dict[str, Endpoint]
    facts: Facts
