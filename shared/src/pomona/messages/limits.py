"""Every limit of the wire format, and the field types that messages share.

:mod:`.codec` checks them when it decodes.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

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
MAX_LAYERS = 4096
"""Layers of one model."""
MAX_PIPELINES = 64
MAX_PLAN_NOTES = 16
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
MAX_ADDRESSES = 32
"""Addresses of one node besides the best one."""
MAX_INTERFACES = 64
MAX_THUNDERBOLT_PORTS = 32
MAX_TROUBLES = 64
MAX_STALLS = 16

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(max_length=4096)]
Endpoint = Annotated[str, StringConstraints(max_length=256)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Epoch = Annotated[int, Field(ge=0, le=2**53)]
Order = Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)]
"""Place in an order of decisions; above it nothing is left to come after it."""
Rate = Annotated[float, Field(ge=0, le=1e24, allow_inf_nan=False)]
Real = Annotated[float, Field(allow_inf_nan=False)]
UnixTime = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
"""Unix time in seconds."""
LayerIndex = Annotated[int, Field(ge=0, le=MAX_LAYERS)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Identifier = Annotated[int, Field(ge=0, le=2**53)]
Dimension = Annotated[int, Field(ge=0, le=2**31 - 1)]
