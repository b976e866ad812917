"""Bytes to messages and back: pure functions that check every field against its limit.

A data message is a list of frames: the envelope as JSON, then the raw bytes of each
tensor. It may come in two parts, so that its envelope is read while its last ``later``
tensors are still being computed; the second part is the message's name with the time that they
took, and those tensors.
A beacon is two frames: its topic and JSON. Nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona.errors import ProtocolError
from pomona.messages.control import Beacon
from pomona.messages.limits import (
    MAX_BEACON_BYTES,
    MAX_ELAPSED_DIGITS,
    MAX_HEADER_BYTES,
    MAX_MESSAGE_NAME_BYTES,
    MAX_TENSOR_BYTES,
    MAX_TENSORS,
)
from pomona.messages.pipeline import Envelope, Tensor

PROTOCOL_VERSION = 4

Buffer: TypeAlias = bytes | bytearray | memoryview

ITEM_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8,
}  # fmt: skip

_BEACON = TypeAdapter(Beacon)
_ENVELOPE = TypeAdapter(Envelope)


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded data message: its envelope, and each tensor's raw bytes."""

    envelope: Envelope
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class MessageRest:
    """The second part of a message.

    Attributes:
        name: of the message.
        elapsed_us: how long its sender computed what follows, microseconds.
        buffers: that were to follow.
    """

    name: bytes
    elapsed_us: int
    buffers: Sequence[Buffer]


def beacon_topic(service: str, name: str) -> bytes:
    """The PUB/SUB topic of a beacon; subscribers may filter on a prefix of it."""
    return f"beacon/{service}/{name}".encode()


def encode_beacon(beacon: Beacon) -> list[bytes]:
    return [beacon_topic(beacon.facts.service, beacon.name), orjson.dumps(beacon)]


def decode_beacon(frames: Sequence[Buffer]) -> Beacon:
    """Raises ProtocolError when the frames are no valid beacon."""
    if len(frames) != 2:
        raise ProtocolError(f"a beacon has 2 frames, not {len(frames)}")
    body = frames[1]
    if len(body) > MAX_BEACON_BYTES:
        raise ProtocolError(f"a beacon of {len(body)} bytes is over {MAX_BEACON_BYTES}")
    try:
        beacon = _BEACON.validate_json(bytes(body), strict=True)
    except ValidationError as error:
        raise ProtocolError(f"not a beacon: {_first(error)}") from error
    if bytes(frames[0]) != beacon_topic(beacon.facts.service, beacon.name):
        raise ProtocolError(f"topic {bytes(frames[0])[:128]!r} is not that of {beacon.name}")
    return beacon


def encode_message(envelope: Envelope, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Frames of a data message. The buffers are passed on, not copied."""
    return [orjson.dumps(envelope), *buffers]


def decode_message(frames: Sequence[Buffer]) -> Message:
    """Raises ProtocolError when the frames are no valid data message, or a part of one."""
    message = decode_part(frames)
    if message.envelope.later:
        raise ProtocolError(f"{message.envelope.later} tensors are missing")
    return message


def decode_part(frames: Sequence[Buffer]) -> Message:
    """A message, or the first part of one: it lacks its last ``envelope.later`` buffers.

    Raises ProtocolError when the frames are no valid data message.
    """
    if not 1 <= len(frames) <= 1 + MAX_TENSORS:
        raise ProtocolError(f"a message has 1 to {1 + MAX_TENSORS} frames, not {len(frames)}")
    header = frames[0]
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(header)} bytes is over {MAX_HEADER_BYTES}")
    try:
        envelope = _ENVELOPE.validate_json(bytes(header), strict=True)
    except ValidationError as error:
        raise ProtocolError(f"not a message: {_first(error)}") from error
    if envelope.version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol {envelope.version} is spoken, not {PROTOCOL_VERSION}")
    if envelope.later > len(envelope.tensors):
        raise ProtocolError(f"{envelope.later} of {len(envelope.tensors)} tensors are to follow")
    buffers = tuple(frames[1:])
    check_sizes(envelope.tensors[: len(envelope.tensors) - envelope.later], buffers)
    return Message(envelope, buffers)


def encode_rest(rest: MessageRest) -> list[Buffer]:
    """Frames of the second part of a message. The buffers are passed on, not copied."""
    return [b"%b %d" % (rest.name, rest.elapsed_us), *rest.buffers]


def is_rest(frames: Sequence[Buffer]) -> bool:
    """Whether frames are the second part of a message, since they do not begin as JSON."""
    return frames[0][:1] != b"{"


def decode_rest(frames: Sequence[Buffer]) -> MessageRest:
    """Raises ProtocolError when the frames are no second part of a message."""
    name, _, elapsed_us = bytes(frames[0][:MAX_MESSAGE_NAME_BYTES]).rpartition(b" ")
    if not elapsed_us.isdigit() or len(elapsed_us) > MAX_ELAPSED_DIGITS:
        raise ProtocolError("neither a message nor the second part of one")
    return MessageRest(name, int(elapsed_us), frames[1:])


def check_sizes(tensors: Sequence[Tensor], buffers: Sequence[Buffer]) -> None:
    """Raises ProtocolError unless there is a buffer for each tensor, as long as it."""
    if len(buffers) != len(tensors):
        raise ProtocolError(f"{len(tensors)} tensors announced, {len(buffers)} sent")
    for tensor, buffer in zip(tensors, buffers, strict=True):
        if tensor_bytes(tensor) != len(buffer):
            raise ProtocolError(f"{tensor} does not fill {len(buffer)} bytes")


def message_name(envelope: Envelope) -> bytes:
    """Which message of which link this is: the first frame of its second part."""
    return f"{envelope.boot}/{envelope.link}/{envelope.seq}".encode()


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's frame. Raises ProtocolError over MAX_TENSOR_BYTES."""
    size = prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
    if size > MAX_TENSOR_BYTES:
        raise ProtocolError(f"a tensor of {size} bytes is over {MAX_TENSOR_BYTES}")
    return size


def _first(error: ValidationError) -> str:
    """Where and what, without the input: a prompt must not reach a log."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
