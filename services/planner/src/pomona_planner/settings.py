"""Settings of the planner: ``POMONA_PLANNER_*``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from pomona.models import EMBEDDED_MODEL
from pomona.settings import ServiceSettings
from pomona_planner.control.pins import parse_pin


class PlannerSettings(ServiceSettings):
    """What the planner needs to know."""

    model_config = SettingsConfigDict(env_prefix="POMONA_PLANNER_")
    section: ClassVar[str] = "planner"

    models: tuple[str, ...] = (EMBEDDED_MODEL,)
    """Models that should be loaded: hub ids, folders, GGUF files or embedded names."""
    known_models: tuple[str, ...] = ()
    """Models that are loaded when somebody asks for them; written as ``models`` are."""
    idle_unload_s: float = Field(default=0.0, ge=0, le=30 * 86400)
    """Unload a model that nobody has asked anything for so long, seconds. 0: never."""
    stages: int = Field(default=0, ge=0, le=64)
    """Stages of each pipeline. 0: as few as hold the model."""
    context_length: int = Field(default=0, ge=0, le=2**24)
    """Tokens that prompt and reply may have together. 0: what the model can."""
    cache_bits: Literal[0, 2, 3, 4, 6, 8] = 0
    """Quantise keys and values to this many bits; such sequences run one to a lane. 0: no."""
    aim: Literal["latency", "throughput"] = "latency"
    """What a plan is to be best at: one user's speed, or that of all promised users together."""
    floor: float = Field(default=0.25, ge=0, le=1)
    """With the aim ``latency``: the share of the best possible throughput that a plan reaches."""
    users: int = Field(default=1, ge=1, le=4096)
    """Requests at once whose caches must fit."""
    promised_context: int = Field(default=1024, ge=1, le=2**24)
    """Tokens of each of them that must fit."""
    require: tuple[str, ...] = ()
    """Nodes, or stage workers, that must hold a stage; as a JSON list."""
    exclude: tuple[str, ...] = ()
    """Nodes, or stage workers, that must not."""
    pins: tuple[str, ...] = ()
    """Layers that belong on a node: ``mini-1=0..20``, or ``mini-1=0..20@MODEL`` for one model;
    as a JSON list. While the node is there, it holds exactly these."""
    replan_gain: float = Field(default=0.2, gt=0, le=10)
    """A better plan is proposed when it is faster by this share."""
    replan: Literal["propose", "idle", "always"] = "propose"
    """Whether a better plan is only proposed, made when nothing runs, or made at once."""
    look_interval_s: float = Field(default=30.0, ge=0.5, le=86400)
    """Between two looks at what was measured, and for a better plan, seconds."""
    settle_s: float = Field(default=2.0, ge=0, le=60)
    """Without a fixed number of stages: how long to wait for more workers, seconds."""

    @field_validator("pins")
    @classmethod
    def _are_pins(cls, pins: tuple[str, ...]) -> tuple[str, ...]:
        for pin in pins:
            parse_pin(pin)
        return pins
