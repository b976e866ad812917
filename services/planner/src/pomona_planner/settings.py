"""Settings of the planner: ``POMONA_PLANNER_*``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from pomona.models import EMBEDDED_MODEL
from pomona.settings import ServiceSettings
from pomona_planner.control.pins import parse_pin


class PlannerSettings(ServiceSettings):
    """Settings of the planner."""

    model_config = SettingsConfigDict(env_prefix="POMONA_PLANNER_")
    section: ClassVar[str] = "planner"

    models: tuple[str, ...] = (EMBEDDED_MODEL,)
    """Models to load: hub ids, folders, GGUF files or embedded names, as a JSON list."""
    known_models: tuple[str, ...] = ()
    """Models to load when a client requests them; written as ``models`` are."""
    idle_unload_s: float = Field(default=0.0, ge=0, le=30 * 86400)
    """Seconds without requests before a model is unloaded, 0 to 2,592,000. 0: never."""
    stages: int = Field(default=0, ge=0, le=64)
    """Exact number of stages of each pipeline, 0 to 64. 0: left to the planner."""
    context_length: int = Field(default=0, ge=0, le=2**24)
    """Maximum tokens of prompt and reply together, 0 to 2^24. 0: the model's own limit."""
    cache_bits: Literal[0, 2, 3, 4, 6, 8] = 0
    """Bits of quantised keys and values; such sequences run one to a lane. 0: not quantised."""
    draft_model: str = ""
    """Small model of the same vocabulary that guesses tokens on the head: a hub id, a folder, a
    GGUF file or an embedded name; ``auto`` takes one from a table. Empty: none."""
    aim: Literal["latency", "throughput"] = "latency"
    """Objective of a plan: the speed of one user, or of all promised users together."""
    floor: float = Field(default=0.25, ge=0, le=1)
    """Minimum share of the best possible throughput with the aim ``latency``, 0 to 1."""
    users: int = Field(default=1, ge=1, le=4096)
    """Concurrent requests whose caches must fit, 1 to 4096."""
    promised_context: int = Field(default=1024, ge=1, le=2**24)
    """Tokens of each of these requests that must fit, 1 to 2^24."""
    require: tuple[str, ...] = ()
    """Nodes or stage workers that must hold a stage, as a JSON list."""
    spread: bool = False
    """Give every machine a stage, where the model can be cut so, also when fewer would be faster.
    No effect with ``stages``. `pomona up` sets it in a cluster of several machines."""
    exclude: tuple[str, ...] = ()
    """Nodes or stage workers that must not hold a stage, as a JSON list."""
    pins: tuple[str, ...] = ()
    """Layers of a node, as a JSON list: ``mini-1=0..20``, or ``mini-1=0..20@MODEL`` for one
    model. The node holds exactly these layers while it is present."""
    replan_gain: float = Field(default=0.2, gt=0, le=10)
    """Share of speed that a better plan must gain to be proposed, above 0 to 10."""
    replan: Literal["propose", "idle", "always"] = "propose"
    """Use of a better plan: only propose it, apply it when the cluster is idle, or at once."""
    look_interval_s: float = Field(default=30.0, ge=0.5, le=86400)
    """Seconds between comparisons of the pipeline with the best plan, 0.5 to 86,400."""
    settle_s: float = Field(default=2.0, ge=0, le=60)
    """Seconds to wait for more workers when ``stages`` is 0, 0 to 60."""

    @field_validator("pins")
    @classmethod
    def _check_pins(cls, pins: tuple[str, ...]) -> tuple[str, ...]:
        for pin in pins:
            parse_pin(pin)
        return pins
