"""Messages between a stage worker and the rank processes of its group.

A message is a header in JSON and the raw bytes of its tensors. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias, TypeVar

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from pomona.errors import ProtocolError
from pomona.messages.codec import Buffer, check_sizes
from pomona.messages.control import Pipeline
from pomona.messages.pipeline import Embedded, Scored, Step, Tensor, Token

# To a rank -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Joins the group, then reads this rank's part of layers ``[start, stop)``.

    Attributes:
        backend: backend of ``mx.distributed``.
        hold_us: duration of every step of an emulated rank, microseconds; None computes.
        width: float32 activations of a token that an emulated rank sends.
        spins: whether the processes may poll around the end of a step, because other devices than
            the polling cores compute it.
    """

    kind: Literal["load"] = field(default="load", kw_only=True)
    source: str
    start: int
    stop: int
    backend: Literal["ring", "jaccl"] = "ring"
    hold_us: int | None = None
    width: int = 576
    spins: bool = False


@dataclass(frozen=True, slots=True)
class Assemble:
    """Makes the stage of a new epoch, with empty caches. A warm-up chunk has ``chunk`` tokens."""

    kind: Literal["assemble"] = field(default="assemble", kw_only=True)
    pipeline: Pipeline
    chunk: int


@dataclass(frozen=True, slots=True)
class RunStep:
    """Applies the ops of a step and computes its rows. The tensors are those of the step."""

    kind: Literal["run_step"] = field(default="run_step", kw_only=True)
    step: Step
    tensors: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class AskState:
    """Asks for the :class:`CacheState`."""

    kind: Literal["ask_state"] = field(default="ask_state", kw_only=True)


# To the stage worker ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """Reports bytes loaded. ``is_done`` is set once, at the end."""

    kind: Literal["progress"] = field(default="progress", kw_only=True)
    done: int
    total: int
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """Reports an assembled stage. The attributes are those of ``Stage`` and its warm-up."""

    kind: Literal["ready"] = field(default="ready", kw_only=True)
    can_batch: bool
    can_slice: bool
    can_roll_back: bool
    has_experts: bool
    decode_us: float
    tail_us: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sampled token, and the gateway's address ``reply`` that it goes to."""

    reply: str
    seq: int
    token: Token


@dataclass(frozen=True, slots=True)
class PromptHeader:
    """The prompt's logprobs or embedding; the tensors are the last ones of the message."""

    reply: str
    body: Annotated[Scored | Embedded, Field(discriminator="kind")]
    tensors: int


@dataclass(frozen=True, slots=True)
class Started:
    """Describes the activations of the step that is computed now, on a stage before the tail."""

    kind: Literal["started"] = field(default="started", kw_only=True)
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Reports a finished step of rank 0 with its results.

    Attributes:
        digest: of the step's number and its sampled tokens, on which all ranks must agree.
        tensors: activations, then those of ``prompt``.
    """

    kind: Literal["done"] = field(default="done", kw_only=True)
    step: int
    digest: str
    sampled: tuple[Sampled, ...] = ()
    prompt: PromptHeader | None = None
    tensors: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class StepDigest:
    """Reports a finished step of a rank other than 0; ``digest`` as in :class:`Done`."""

    kind: Literal["digest"] = field(default="digest", kw_only=True)
    step: int
    digest: str


@dataclass(frozen=True, slots=True)
class CacheState:
    """Reports the cache table as JSON, on which all ranks must agree, and the bytes of caches."""

    kind: Literal["cache_state"] = field(default="cache_state", kw_only=True)
    table: str
    cache_bytes: int
    prefix_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Reports the error that ends this rank."""

    kind: Literal["failed"] = field(default="failed", kw_only=True)
    error: str


Command: TypeAlias = Load | Assemble | RunStep | AskState
Report: TypeAlias = Progress | Ready | Started | Done | StepDigest | CacheState | Failed

M = TypeVar("M")

_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])
_REPORT: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def encode(message: Command | Report, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Returns the frames of a message."""
    return [orjson.dumps(message), *buffers]


def decode_command(frames: Sequence[Buffer]) -> Command:
    """Decodes a message to a rank. Raises ProtocolError when it is not valid."""
    command = _decode(_COMMAND, frames[0])
    check_sizes(command.tensors if isinstance(command, RunStep) else (), frames[1:])
    return command


def decode_report(frames: Sequence[Buffer]) -> Report:
    """Decodes a message of a rank. Raises ProtocolError when it is not valid."""
    report = _decode(_REPORT, frames[0])
    check_sizes(report.tensors if isinstance(report, Done) else (), frames[1:])
    return report


def _decode(adapter: TypeAdapter[M], header: Buffer) -> M:
    try:
        return adapter.validate_json(bytes(header), strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ProtocolError(f"not a valid message of a rank: {detail['loc']}") from error
