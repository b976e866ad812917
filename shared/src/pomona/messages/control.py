"""Control plane: the beacon that each service publishes once a second and at every change.

A beacon is the full state, never a difference. A late subscriber needs no snapshot, and a lost
beacon costs a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pomona.messages.discovery import DiscoveryFacts
from pomona.messages.limits import (
    MAX_ALERTS,
    MAX_DRAFT_SOURCES,
    MAX_ENDPOINTS,
    MAX_FALSE_WEIGHTS,
    MAX_MODELS,
    MAX_NODES,
    MAX_PIPELINES,
    MAX_PLAN_NOTES,
    MAX_RANKS,
    MAX_REPORTED_REQUESTS,
    MAX_STAGES,
    MAX_STALLS,
    Count,
    Endpoint,
    Epoch,
    LayerIndex,
    Name,
    Order,
    ProvenEpoch,
    Rate,
    RequestId,
    StepWidth,
    Text,
    UnixTime,
)
from pomona.messages.placement import Placement

ServiceName = Literal["discovery", "planner", "stage_worker", "gateway", "health_watcher"]
State = Literal["starting", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers ``[start, stop)`` of one model on the stage worker named ``worker``.

    Attributes:
        endpoint: data endpoint of the worker's process when the plan was made. A restarted
            worker has another one, so it does not take up a plan for its predecessor.
        address: endpoint for the previous stage, if not ``endpoint``: a local socket of the
            same machine, or the best measured address of a worker that listens on all.
        boot: boot id of the worker's process. Steps of other processes are dropped.
        node: node of the worker, whose key must answer at the endpoint.
    """

    worker: Name
    start: LayerIndex
    stop: LayerIndex
    endpoint: Endpoint
    address: Endpoint = ""
    boot: Annotated[str, Field(max_length=64)] = ""
    node: Annotated[str, Field(max_length=64)] = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted performance of a pipeline.

    Attributes:
        tokens_per_second: decode rate of one user alone.
        ceiling_tokens_per_second: the same if reading the weights were the only cost.
        users: concurrent requests that ``users_tokens_per_second`` assumes.
        users_tokens_per_second: total decode rate of ``users`` requests.
        prompt_tokens: prompt length that ``first_token_s`` assumes.
        first_token_s: time to first token, seconds.
        cache_tokens: tokens that fit into the KV caches of the tightest stage.
        stage_us: time of each stage for one user's token, microseconds.
        link_us: time of each link in order, microseconds; the last is from tail to head.
        tail_us: the part of the tail's ``stage_us`` for vocabulary head and sampler.
        corrections: factors of measured over predicted time, already applied to ``stage_us``.
        tail_correction: the same factor, applied to ``tail_us`` in addition.
        link_correction: the same factor, applied to ``link_us``.
        joules_per_token: energy per token with ``users`` requests; 0 when power is unknown.
        notes: remarks about the plan for the operator.
        acceptance: share of right guesses that ``guessed_tokens_per_second`` assumes; 0 without a
            source of which it is known.
        guess_us: time of a guess of the draft model on the head, microseconds; 0 without one.
        guessed_tokens_per_second: decode rate of one user alone whose tokens are guessed; 0 while
            ``acceptance`` is not known.
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
    notes: Annotated[tuple[Text, ...], Field(max_length=MAX_PLAN_NOTES)] = ()
    acceptance: Rate = 0.0
    guess_us: Rate = 0.0
    guessed_tokens_per_second: Rate = 0.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The planner's plan for one model: the ordered stages that together hold it.

    Attributes:
        model: name that clients use.
        source: where workers find the model: a hub id with its commit, a folder, or a GGUF file.
        epoch: version of the plan. It only rises.
        layer_count: layers of the model. The stages cover ``[0, layer_count)``.
        state: ``forming`` until every stage reports ready, then ``active``; ``impossible``
            when there is no plan; ``reason`` explains why.
        context_length: limit of prompt and reply tokens of one request.
        cache_tokens: tokens that fit into the KV caches of the tightest stage, for all requests
            and cached prefixes together.
        cache_bits: bits of a quantised key or value; 0 means not quantised.
        vocab_size: number of token ids; 0 when unknown.
        proposal: description of a sufficiently better plan, which is not applied while requests
            run; empty when there is none.
        draft_source: where the head finds the small model that guesses tokens; empty for none.
        unused_drafts: why sources of guesses are not used, by name.
        prompt_limit: most tokens of a prompt, because a stage's process died of longer ones; 0 for
            no limit. ``prompt_limit_reason`` explains it.
        digest: SHA-256 of the table of digests of the model's files
            (:mod:`pomona.models.store.weight_digests`); empty while it is computed, or when no
            stage is on another machine than the planner.
    """

    model: Text
    source: Text
    epoch: Epoch
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
    prompt_limit: Count = 0
    prompt_limit_reason: Text = ""
    digest: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    draft_source: Text = ""
    unused_drafts: Annotated[dict[Text, Text], Field(max_length=MAX_DRAFT_SOURCES)] = field(
        default_factory=dict[str, str]
    )


@dataclass(frozen=True, slots=True)
class WantedModel:
    """Latest decision on whether a model should be loaded.

    Attributes:
        name: name that clients use.
        source: where workers find the model.
        at: place of the decision in the planner's order; 0 when it comes from its settings.
    """

    name: Text
    source: Text
    loaded: bool
    at: Order = 0.0


@dataclass(frozen=True, slots=True)
class NodeDrain:
    """Latest decision on whether a node is drained: planned without, so that it can be stopped.

    Attributes:
        node: name of a node, or of one of its stage workers.
        state: ``draining`` while it holds layers or others still load them, then ``drained``;
            ``refused`` when the others cannot hold a model; ``ended`` when it is planned with.
        until_back: the drain ends by itself when the node has been started again.
        at: place of the decision in the planner's order.
        boot: boot id of the node's process at the drain; empty when the node was away.
        reason: what the drain costs, or why it was refused.
        pause_s: expected pause of answers, seconds; when it was refused, the time to load the
            node's layers once it is back.
    """

    node: Name
    state: Literal["draining", "drained", "refused", "ended"]
    until_back: bool = False
    at: Order = 0.0
    boot: Annotated[str, Field(max_length=64)] = ""
    reason: Text = ""
    pause_s: Rate = 0.0

    @property
    def is_in_force(self) -> bool:
        """True while the node is planned without."""
        return self.state in ("draining", "drained")


@dataclass(frozen=True, slots=True)
class PlannerFacts:
    """Attributes:
    models: every known model, to be loaded or not.
    drains: the latest decision on each node that was to be drained.
    placement: the operator's choices for machines.
    """

    service: Literal["planner"] = field(default="planner", kw_only=True)
    pipelines: Annotated[tuple[Pipeline, ...], Field(max_length=MAX_PIPELINES)] = ()
    models: Annotated[tuple[WantedModel, ...], Field(max_length=MAX_MODELS)] = ()
    drains: Annotated[tuple[NodeDrain, ...], Field(max_length=MAX_NODES)] = ()
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class SpeculationStatus:
    """Guessed tokens since the epoch began, counted by the head.

    Attributes:
        off: reason why nothing is guessed; empty while guesses are possible.
        drafted: guesses whose steps were issued.
        accepted: the right ones.
        tokens_per_round: tokens for each one that had to wait for the token before it.
        sources: right guesses by source.
        unused: why each other source is not used.
    """

    off: Text = ""
    drafted: Count = 0
    accepted: Count = 0
    tokens_per_round: Rate = 1.0
    sources: dict[str, int] = field(default_factory=dict[str, int])
    unused: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class RankStatus:
    """A rank of a tensor group, in rank order in its :class:`GroupStatus`.

    Attributes:
        worker: stage worker on whose machine it runs.
        pid: its process.
        weight_bytes: its part of the stage's weights.
        usable_bytes: memory available to its weights and caches.
    """

    worker: Text
    pid: Count
    weight_bytes: Count = 0
    usable_bytes: Count = 0


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """The tensor group that holds a stage.

    Attributes:
        backend: backend of ``mx.distributed``.
        usable_bytes: memory of the smallest rank times the number of ranks.
    """

    backend: Literal["ring", "jaccl"]
    ranks: Annotated[tuple[RankStatus, ...], Field(max_length=MAX_RANKS)]
    usable_bytes: Count = 0


@dataclass(frozen=True, slots=True)
class StageStatus:
    """State of one stage, reported by its worker. Times are measured, in microseconds.

    Attributes:
        loaded_bytes: weights in memory so far.
        total_bytes: weights of the whole stage.
        error: why the stage ``failed``: file, tensor and what to do.
        decode_us: decode step of one sequence on this stage; from the warm-up until there was
            a request, 0 when there was neither.
        tail_us: the part of ``decode_us`` for vocabulary head and sampler, from the warm-up.
        prefill_us: one prompt token of a long prefill chunk on this stage.
        token_us: interval between tokens of a lone sequence; head only.
        fetched_bytes: weights fetched from other machines so far.
        fetch_bytes: weights to fetch in total.
        sequence_tokens: tokens in the KV caches of running requests, without cached prefixes,
            which are evicted for them; head only.
        workspace_bytes: memory of a prefill chunk at the promised context, beside weights and
            caches, measured when the stage was assembled; 0 where it is not measured.
        speculation: guessed tokens; head only.
        max_width: most tokens of a step with guesses that gives the bits of single steps.
        group: the processes that hold the stage together; None when the worker holds it itself.
    """

    model: Text
    epoch: Epoch
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
    workspace_bytes: Count = 0
    speculation: SpeculationStatus | None = None
    max_width: StepWidth = 1
    group: GroupStatus | None = None


@dataclass(frozen=True, slots=True)
class FalseWeights:
    """A stage worker that sent other bytes of a model's file than those of the plan.

    Attributes:
        peer: name of the sender.
        node: its node.
    """

    peer: Text
    node: Text
    model: Text
    file: Text


@dataclass(frozen=True, slots=True)
class StageWorkerFacts:
    """Attributes:
    device: ``metal``, ``cuda`` or ``cpu``.
    usable_memory_bytes: memory available to weights and caches of this worker.
    resident_bytes: resident memory of the process.
    cache_bytes: memory of KV caches and cached prefixes.
    sequences: sequences with a KV cache.
    prefixes: cached prefixes.
    waiting: requests queued at the head; 0 on other stages.
    step_tokens: prompt and reply tokens of the step that runs; on the head, of all steps in the
        pipeline.
    tokens_per_second: recent output rate of the tail; 0 on other stages.
    table: ``step:digest`` of the cache table after that step. Stages of one epoch must report
        the same digest for the same step.
    broken_epoch: newest epoch that failed here, which the planner must replace.
    broken_reason: why it failed.
    highest_epoch: highest epoch of a stage that this process was told to hold; 0 before the first.
    saved_epoch: highest epoch that this process, or an earlier one of its name, has obeyed.
    unusable_reason: why the worker is ``failed``, like memory that only a reboot gives back.
    prompt_limit: most tokens of a prompt, because processes of this name died of longer ones; 0 for
        no limit.
    obeyed_epochs: highest epoch of each model's plan that this process has obeyed, by source. It
        ignores plans below.
    pipelines: pipelines whose head it holds, for a planner that does not know them.
    stalled_at: Unix times of the last ten minutes, by the clock of this machine, at which processes
        of this name were ended because they made no progress.
    memory_bandwidth: measured bytes of weights read per second; 0 before the measurement.
    matrix_flops: measured floating-point operations per second in matrix products.
    layer_us: measured overhead of the small kernels of one layer, microseconds.
    wired_bytes: weights that Metal keeps wired; 0 on other devices, or when the setting is off.
    wirable_bytes: most bytes of weights that it would wire, as macOS allows; 0 as above.
    footprint_bytes: memory that the system charges to the process: the physical footprint on macOS,
        resident memory elsewhere; 0 from a worker that does not tell.
    active_bytes: memory of MLX's arrays.
    cached_bytes: freed buffers that MLX's allocator keeps.
    panicked_at: Unix time of the panic of this Mac after which the worker refuses to load the
        same layers with the same limits; 0 without one.
    prefix_bytes: the part of ``cache_bytes`` for cached prefixes.
    compute_us: microseconds that the steps of its stages have computed so far.
    false_weights: peers that sent other bytes than the plan's within the last ten minutes.
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
    tokens_per_second: Rate = 0.0
    table: Text = ""
    broken_epoch: Epoch = 0
    broken_reason: Text = ""
    memory_bandwidth: Rate = 0.0
    matrix_flops: Rate = 0.0
    layer_us: Rate = 0.0
    mlx_version: Text = ""
    wired_bytes: Count = 0
    wirable_bytes: Count = 0
    footprint_bytes: Count = 0
    active_bytes: Count = 0
    cached_bytes: Count = 0
    panicked_at: Rate = 0.0
    prefix_bytes: Count = 0
    compute_us: Count = 0
    step_tokens: Count = 0
    highest_epoch: Epoch = 0
    saved_epoch: Epoch = 0
    unusable_reason: Text = ""
    prompt_limit: Count = 0
    obeyed_epochs: Annotated[dict[Text, Epoch], Field(max_length=MAX_PIPELINES)] = field(
        default_factory=dict[str, int]
    )
    pipelines: Annotated[tuple[Pipeline, ...], Field(max_length=MAX_PIPELINES)] = ()
    stalled_at: Annotated[tuple[Rate, ...], Field(max_length=MAX_STALLS)] = ()
    false_weights: Annotated[tuple[FalseWeights, ...], Field(max_length=MAX_FALSE_WEIGHTS)] = ()


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request to load or unload a model, made through a gateway.

    The gateway repeats it until the planner's beacon has a decision at least as new.

    Attributes:
        model: name or source of the model: a hub id, a folder or a GGUF file.
        name: name for clients, if the planner does not know the model yet.
        loaded: True to load, False to unload.
        at: place of the request in the planner's order: above every decision that the gateway has
            seen. The highest wins.
    """

    model: Text
    name: Text
    loaded: bool
    at: Order


@dataclass(frozen=True, slots=True)
class DrainRequest:
    """A request to drain a node or to end its drain, made through a gateway.

    The gateway repeats it until the planner's beacon has a decision at least as new.

    Attributes:
        node: name of a node, or of one of its stage workers.
        drained: True to drain, False to end the drain.
        until_back: see :class:`NodeDrain`.
        force: drain also when the others cannot hold a model, which then is not served.
        at: place of the request in the planner's order, as in :class:`ModelRequest`.
    """

    node: Name
    drained: bool
    until_back: bool = False
    force: bool = False
    at: Order = 0.0


@dataclass(frozen=True, slots=True)
class RequestProgress:
    """Progress of a running request.

    Attributes:
        request: its id, as in the logs.
        age_s: seconds since it arrived at the gateway.
        prompt_tokens: tokens of its prompt.
        prefilled: tokens of the prompt in the caches; 0 while it is queued.
        reply_tokens: tokens of its reply so far.
    """

    request: RequestId
    model: Text
    age_s: Rate
    prompt_tokens: Count
    prefilled: Count
    reply_tokens: Count


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """Attributes:
    url: base URL of the API.
    running: requests in the journal.
    proven_epochs: last epoch in which a token arrived, by model.
    requests: requests to load or unload that the planner has not confirmed.
    used: Unix time in seconds of the last request, by model.
    oldest: progress of the requests that have run longest, oldest first.
    drains: requests to drain nodes that the planner has not confirmed.
    placement: choices for machines that the planner has not confirmed.
    """

    service: Literal["gateway"] = field(default="gateway", kw_only=True)
    url: Text
    running: Count = 0
    proven_epochs: Annotated[dict[Text, ProvenEpoch], Field(max_length=MAX_MODELS)] = field(
        default_factory=dict[str, int]
    )
    requests: Annotated[tuple[ModelRequest, ...], Field(max_length=MAX_MODELS)] = ()
    used: Annotated[dict[Text, UnixTime], Field(max_length=MAX_MODELS)] = field(
        default_factory=dict[str, float]
    )
    oldest: Annotated[tuple[RequestProgress, ...], Field(max_length=MAX_REPORTED_REQUESTS)] = ()
    paused: Count = 0
    resumed: Count = 0
    longest_pause_s: Rate = 0.0
    loads_on_request: bool = True
    drains: Annotated[tuple[DrainRequest, ...], Field(max_length=MAX_NODES)] = ()
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem that exists now.

    Attributes:
        key: identity of the problem over time.
        since: Unix time in seconds at which it was first seen.
    """

    key: Text
    severity: Literal["warning", "critical"]
    summary: Text
    since: UnixTime


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
    """Heartbeat and full state of one service.

    Attributes:
        cluster: name of the cluster. Beacons of another cluster are dropped.
        name: identity of the service in the cluster, stable over restarts.
        node: name of its machine.
        boot: random id, new with every start of the process.
        seq: sequence number within this boot.
        version: Pomona's version.
        progress: count of finished work.
        queued: work started or waiting. The service hangs when this is above zero and
            ``progress`` does not rise.
        endpoints: addresses by use: ``data``, ``local`` (data, same machine only), ``peer``,
            ``metrics``, ``http``.
        facts: state specific to the kind of service; ``facts.service`` names the kind.
        former_end: how the process that this one replaces ended, if its supervisor knows:
            ``killed by SIGKILL``. Empty after a first start.
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
    endpoints: Annotated[dict[str, Endpoint], Field(max_length=MAX_ENDPOINTS)]
    facts: Facts
    former_end: Text = ""
