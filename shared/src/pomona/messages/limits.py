"""Every limit of the wire format, and the field types that messages share.

:mod:`.codec` checks them when it decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, StringConstraints
from pydantic.config import JsonDict

MAX_BEACON_BYTES = 1 << 20
MAX_HEADER_BYTES = 8 << 20
"""Length of an encoded envelope."""
MAX_TENSOR_BYTES = 1 << 31
MAX_TENSORS = 16
"""Tensors of one message."""
MAX_DIMENSIONS = 8
"""Axes of one tensor."""
MAX_MESSAGE_NAME_BYTES = 1 << 10
"""Length of the first frame of a second part, which names its message."""
MAX_ELAPSED_DIGITS = 15
"""Decimal digits of the compute time in a second part."""
MAX_ROWS = 4096
"""Sequences of one step."""
MAX_OPS = 65536
"""Cache ops of one step."""
MAX_STAGES = 64
MAX_RANKS = 8
MAX_STEP_WIDTH = 64
"""Tokens of a step with guesses."""
MAX_LAYERS = 4096
"""Layers of one model."""
MAX_PIPELINES = 64
MAX_PLAN_NOTES = 16
MAX_DRAFT_SOURCES = 8
MAX_QUEUE_PLACES = 1024
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIASES = 4096
MAX_STOP_IDS = 1024
MAX_GRAMMAR_CHARACTERS = 1 << 20
MAX_MODELS = 1024
MAX_KNOWN_MODELS = 256
"""Models that a planner remembers, loaded or not; their sources fill a part of its beacon."""
MAX_SOURCE_CHARACTERS = 1024
MAX_ALERTS = 1024
MAX_ENDPOINTS = 32
"""Addresses of one service, by use."""
MAX_NODES = 256
MAX_ROSTER_BYTES = 1 << 18
"""Members of a cluster with their keys, signed."""
MAX_ADDRESSES = 32
"""Addresses of one node besides the best one."""
MAX_INTERFACES = 64
MAX_THUNDERBOLT_PORTS = 32
MAX_TROUBLES = 64
MAX_STALLS = 16
MAX_FALSE_WEIGHTS = 16
MAX_REPORTED_REQUESTS = 16
"""Requests whose progress one gateway reports."""

MAX_COUNT = 2**63 - 1
MAX_EPOCH = 2**53
"""Above it no epoch would be left to plan."""
MAX_RATE = 1e24
MAX_UNIX_TIME = 1e11
"""The year 5138."""


def _described_by(limits: JsonDict) -> Callable[[JsonDict], None]:
    """Describes a number by other limits than the enforced ones, in its JSON Schema.

    Other versions of Pomona compare schemas; a narrower range must not look like another field.
    """

    def describe(schema: JsonDict) -> None:
        for name in ("minimum", "maximum"):
            schema.pop(name, None)
        schema |= limits

    return describe


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(max_length=4096)]
Endpoint = Annotated[str, StringConstraints(max_length=256)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Epoch = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_EPOCH,
        json_schema_extra=_described_by({"minimum": 0, "maximum": MAX_COUNT}),
    ),
]
ProvenEpoch = Annotated[int, Field(ge=0, le=MAX_EPOCH, json_schema_extra=_described_by({}))]
"""An epoch in a table of epochs by model."""
Order = Annotated[
    float, Field(ge=0, le=MAX_EPOCH, allow_inf_nan=False, json_schema_extra=_described_by({}))
]
"""Place in an order of decisions."""
Rate = Annotated[
    float,
    Field(ge=0, le=MAX_RATE, allow_inf_nan=False, json_schema_extra=_described_by({"minimum": 0})),
]
Real = Annotated[float, Field(allow_inf_nan=False)]
UnixTime = Annotated[
    float, Field(ge=0, le=MAX_UNIX_TIME, allow_inf_nan=False, json_schema_extra=_described_by({}))
]
"""Unix time in seconds."""
StepWidth = Annotated[int, Field(ge=1, le=MAX_STEP_WIDTH)]
LayerIndex = Annotated[int, Field(ge=0, le=MAX_LAYERS)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Identifier = Annotated[int, Field(ge=0, le=2**53)]
Dimension = Annotated[int, Field(ge=0, le=2**31 - 1)]
