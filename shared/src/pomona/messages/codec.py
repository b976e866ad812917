"""Encodes and decodes messages. Pure functions; decoding checks every field against its limit.

A data message is a list of frames: the envelope as JSON, then the raw bytes of each tensor. It
may arrive in two parts, so that the receiver reads the envelope while the sender still computes
the last ``later`` tensors. The second part is a frame with the message's name and the compute
time, then those tensors. A beacon is two frames: topic and JSON. Nothing is unpickled.
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
from pomona.messages.pipeline import Envelope, Submit, Tensor

PROTOCOL_VERSION = 5

Buffer: TypeAlias = bytes | bytearray | memoryview

ITEM_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8,
}  # fmt: skip

_BEACON = TypeAdapter(Beacon)
_ENVELOPE = TypeAdapter(Envelope)
_SUBMIT = TypeAdapter(Submit)


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded data message: the envelope, and the raw bytes of each tensor."""

    envelope: Envelope
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class MessageRest:
    """The second part of a message.

    Attributes:
        name: :func:`message_name` of the first part.
        elapsed_us: sender's compute time for the remaining tensors, microseconds.
        buffers: raw bytes of the remaining tensors.
    """

    name: bytes
    elapsed_us: int
    buffers: Sequence[Buffer]


def beacon_topic(service: str, name: str) -> bytes:
    """Returns the PUB/SUB topic of a beacon. Subscribers may filter by a prefix."""
    return f"beacon/{service}/{name}".encode()


def encode_beacon(beacon: Beacon) -> list[bytes]:
    return [beacon_topic(beacon.facts.service, beacon.name), orjson.dumps(beacon)]


def decode_beacon(frames: Sequence[Buffer]) -> Beacon:
    """Raises ProtocolError when the frames are not a valid beacon."""
    if len(frames) != 2:
        raise ProtocolError(f"a beacon has 2 frames, not {len(frames)}")
    body = frames[1]
    if len(body) > MAX_BEACON_BYTES:
        raise ProtocolError(f"a beacon of {len(body)} bytes is over {MAX_BEACON_BYTES}")
    try:
        beacon = _BEACON.validate_json(bytes(body), strict=True)
    except ValidationError as error:
        raise ProtocolError(f"not a valid beacon: {_first_detail(error)}") from error
    if bytes(frames[0]) != beacon_topic(beacon.facts.service, beacon.name):
        raise ProtocolError(f"topic {bytes(frames[0])[:128]!r} is not the topic of {beacon.name}")
    return beacon


def encode_message(envelope: Envelope, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Returns the frames of a data message. Buffers are referenced, not copied."""
    return [orjson.dumps(envelope), *buffers]


def check_submit(submit: Submit) -> None:
    """Checks a request before it is sent, because a receiver drops it unless it can be decoded.

    Raises ProtocolError, which names the field.
    """
    try:
        _SUBMIT.validate_json(orjson.dumps(submit), strict=True)
    except ValidationError as error:
        raise ProtocolError(f"not a valid request: {_first_detail(error)}") from error


def decode_message(frames: Sequence[Buffer]) -> Message:
    """Raises ProtocolError when the frames are not a valid data message, or only a part of one."""
    message = decode_part(frames)
    if message.envelope.later:
        raise ProtocolError(f"{message.envelope.later} tensors of the message are missing")
    return message


def decode_part(frames: Sequence[Buffer]) -> Message:
    """Decodes a message or the first part of one, which lacks its last ``envelope.later`` buffers.

    Raises ProtocolError when the frames are not a valid data message.
    """
    if not 1 <= len(frames) <= 1 + MAX_TENSORS:
        raise ProtocolError(f"a message has 1 to {1 + MAX_TENSORS} frames, not {len(frames)}")
    header = frames[0]
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(header)} bytes is over {MAX_HEADER_BYTES}")
    try:
        envelope = _ENVELOPE.validate_json(bytes(header), strict=True)
    except ValidationError as error:
        raise ProtocolError(f"not a valid message: {_first_detail(error)}") from error
    if envelope.version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the sender uses protocol {envelope.version}, this node {PROTOCOL_VERSION}; run the "
            "same version of Pomona on all nodes"
        )
    if envelope.later > len(envelope.tensors):
        raise ProtocolError(
            f"{envelope.later} tensors are to follow, but the message has {len(envelope.tensors)}"
        )
    buffers = tuple(frames[1:])
    check_sizes(envelope.tensors[: len(envelope.tensors) - envelope.later], buffers)
    return Message(envelope, buffers)


def encode_rest(rest: MessageRest) -> list[Buffer]:
    """Returns the frames of a second part. Buffers are referenced, not copied."""
    return [b"%b %d" % (rest.name, rest.elapsed_us), *rest.buffers]


def is_rest(frames: Sequence[Buffer]) -> bool:
    """Tests whether frames are a second part, which is the only kind that is not JSON."""
    return frames[0][:1] != b"{"


def decode_rest(frames: Sequence[Buffer]) -> MessageRest:
    """Raises ProtocolError when the frames are not the second part of a message."""
    name, _, elapsed_us = bytes(frames[0][:MAX_MESSAGE_NAME_BYTES]).rpartition(b" ")
    if not elapsed_us.isdigit() or len(elapsed_us) > MAX_ELAPSED_DIGITS:
        raise ProtocolError("neither a message nor the second part of one")
    return MessageRest(name, int(elapsed_us), frames[1:])


def check_sizes(tensors: Sequence[Tensor], buffers: Sequence[Buffer]) -> None:
    """Raises ProtocolError unless each tensor has one buffer of its size."""
    if len(buffers) != len(tensors):
        raise ProtocolError(f"{len(tensors)} tensors were announced, {len(buffers)} sent")
    for tensor, buffer in zip(tensors, buffers, strict=True):
        if tensor_bytes(tensor) != len(buffer):
            raise ProtocolError(f"{tensor} does not fill {len(buffer)} bytes")


def message_name(envelope: Envelope) -> bytes:
    """Returns the identity of a message: boot, link and sequence number of its sender."""
    return f"{envelope.boot}/{envelope.link}/{envelope.seq}".encode()


def tensor_bytes(tensor: Tensor) -> int:
    """Returns the bytes of a tensor's frame. Raises ProtocolError over MAX_TENSOR_BYTES."""
    size = prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
    if size > MAX_TENSOR_BYTES:
        raise ProtocolError(f"a tensor of {size} bytes is over {MAX_TENSOR_BYTES}")
    return size


def _first_detail(error: ValidationError) -> str:
    """Returns the first error's field and message without its input, which may be a prompt."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
