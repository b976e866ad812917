"""Codec: round trips of every message, and rejection beyond every limit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.errors import ProtocolError
from pomona.messages import codec
from pomona.messages.control import Alert, Beacon, HealthWatcherFacts
from pomona.messages.discovery import DiscoveryFacts
from pomona.messages.limits import MAX_HEADER_BYTES, MAX_TENSORS
from pomona.messages.pipeline import Cancel, Envelope, Tensor
from support.beacons import HARDWARE, beacon_of
from support.strategies import messages

BEACONS = messages(Beacon)
TENSORS = st.builds(
    Tensor,
    dtype=st.sampled_from(sorted(codec.ITEM_BYTES)),
    shape=st.lists(st.integers(0, 5), max_size=4).map(tuple),
)
ENVELOPES = st.builds(
    replace,
    messages(Envelope),
    version=st.just(codec.PROTOCOL_VERSION),
    tensors=st.lists(TENSORS, max_size=3).map(tuple),
    later=st.just(0),
)


def envelope_of(**fields: Any) -> Envelope:
    base: dict[str, Any] = {
        "version": codec.PROTOCOL_VERSION,
        "cluster": "pomona",
        "sender": "mac.gateway",
        "boot": "boot1",
        "link": 1,
        "seq": 0,
        "epoch": 1,
        "body": Cancel("request", 1),
    }
    return Envelope(**{**base, **fields})


# Beacons -------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)
@given(BEACONS)
def test_a_beacon_survives_encoding_and_decoding(beacon: Beacon) -> None:
    assert codec.decode_beacon(codec.encode_beacon(beacon)) == beacon


@pytest.mark.slow
@settings(deadline=None)
@given(ENVELOPES, st.integers(1, 4))
def test_a_first_part_is_not_accepted_as_a_whole_message(envelope: Envelope, later: int) -> None:
    envelope = replace(envelope, later=later)
    known = envelope.tensors[: max(len(envelope.tensors) - later, 0)]
    frames = codec.encode_message(envelope, [bytes(codec.tensor_bytes(t)) for t in known])
    if later <= len(envelope.tensors):
        assert codec.decode_part(frames).envelope == envelope
        with pytest.raises(ProtocolError, match="missing"):
            codec.decode_message(frames)
    else:
        with pytest.raises(ProtocolError, match="to follow"):
            codec.decode_part(frames)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=4))
def test_random_frames_are_not_a_beacon(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_beacon(frames)


@pytest.mark.slow
@settings(deadline=None)
@given(BEACONS, st.data())
def test_a_damaged_beacon_is_rejected_or_still_valid(beacon: Beacon, data: st.DataObject) -> None:
    topic, body = codec.encode_beacon(beacon)
    place = data.draw(st.integers(0, len(body) - 1))
    byte = data.draw(st.integers(0, 255))
    damaged = body[:place] + bytes([byte]) + body[place + 1 :]
    with suppress(ProtocolError):
        assert isinstance(codec.decode_beacon([topic, damaged]), Beacon)


@pytest.mark.slow
@settings(deadline=None)
@given(BEACONS, st.data())
def test_a_truncated_beacon_is_rejected(beacon: Beacon, data: st.DataObject) -> None:
    topic, body = codec.encode_beacon(beacon)
    with pytest.raises(ProtocolError):
        codec.decode_beacon([topic, body[: data.draw(st.integers(0, len(body) - 1))]])


def too_large() -> Beacon:
    alerts = tuple(Alert(f"k{i}", "warning", "x" * 4000, 0.0) for i in range(300))
    return beacon_of("health_watcher", facts={"alerts": alerts})


@pytest.mark.parametrize(
    ("beacon", "what"),
    [
        (beacon_of("gateway", cluster="no spaces"), "cluster"),
        (beacon_of("gateway", node="n" * 65, name="mac.gateway"), "node"),
        (beacon_of("gateway", boot=""), "boot"),
        (beacon_of("gateway", seq=-1), "seq"),
        (beacon_of("gateway", state="asleep"), "state"),
        (beacon_of("gateway", pid="4711"), "pid"),
        (beacon_of("gateway", endpoints={"data": "x" * 257}), "endpoints"),
        (beacon_of("gateway", facts={"url": "x" * 4097}), "url"),
        (beacon_of("discovery", facts={"peers": ("x",) * 257}), "peers"),
        (
            beacon_of("discovery", facts={"hardware": replace(HARDWARE, cores=2**63)}),
            "cores",
        ),
        (too_large(), "over"),
    ],
)
def test_a_beacon_beyond_a_limit_is_rejected_and_the_error_names_it(
    beacon: Beacon, what: str
) -> None:
    with pytest.raises(ProtocolError, match=what):
        codec.decode_beacon(codec.encode_beacon(beacon))


def test_a_beacon_at_its_limits_is_valid() -> None:
    facts = DiscoveryFacts(HARDWARE, ("x" * 256,) * 256)
    beacon = beacon_of("discovery", "n" * 64, name="m" * 64, facts=None, seq=2**63 - 1)
    beacon = replace(beacon, facts=facts)
    assert codec.decode_beacon(codec.encode_beacon(beacon)) == beacon


@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e999", "-1", "1e25"])
def test_numbers_that_are_not_finite_or_out_of_range_are_rejected(value: str) -> None:
    beacon = beacon_of("stage_worker", facts={"memory_bandwidth": 123456.5})
    topic, body = codec.encode_beacon(beacon)
    with pytest.raises(ProtocolError, match="memory_bandwidth"):
        codec.decode_beacon([topic, body.replace(b"123456.5", value.encode())])


def test_an_epoch_that_leaves_none_to_plan_is_rejected() -> None:
    for facts in ({"highest_epoch": 2**53 + 1}, {"broken_epoch": 2**63 - 1}):
        with pytest.raises(ProtocolError, match="epoch"):
            codec.decode_beacon(codec.encode_beacon(beacon_of("stage_worker", facts=facts)))
    proven = beacon_of("gateway", facts={"proven_epochs": {"m": 2**53 + 1}})
    with pytest.raises(ProtocolError, match="proven_epochs"):
        codec.decode_beacon(codec.encode_beacon(proven))


def test_facts_of_an_unknown_kind_are_rejected() -> None:
    topic, body = codec.encode_beacon(beacon_of("gateway"))
    content = orjson.loads(body)
    content["facts"]["service"] = "stranger"
    with pytest.raises(ProtocolError, match="facts"):
        codec.decode_beacon([topic, orjson.dumps(content)])


def test_a_beacon_with_the_topic_of_another_is_rejected() -> None:
    topic, _ = codec.encode_beacon(beacon_of("gateway", "one"))
    _, body = codec.encode_beacon(beacon_of("gateway", "two"))
    with pytest.raises(ProtocolError, match="topic"):
        codec.decode_beacon([topic, body])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_beacon_has_two_frames(count: int) -> None:
    frames = [*codec.encode_beacon(beacon_of("gateway")), b"more"][:count]
    with pytest.raises(ProtocolError, match="2 frames"):
        codec.decode_beacon(frames)


def test_errors_do_not_quote_the_content_of_a_beacon() -> None:
    frames = codec.encode_beacon(beacon_of("gateway", node="secret words " * 9))
    with pytest.raises(ProtocolError) as caught:
        codec.decode_beacon(frames)
    assert "secret" not in str(caught.value)


def test_a_number_that_json_cannot_represent_is_rejected() -> None:
    facts = HealthWatcherFacts((Alert("k", "warning", "s", float("nan")),))
    beacon = replace(beacon_of("health_watcher"), facts=facts)
    with pytest.raises(ProtocolError, match="since"):
        codec.decode_beacon(codec.encode_beacon(beacon))


# Data messages -------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)
@given(ENVELOPES, st.randoms(use_true_random=False))
def test_a_message_survives_encoding_and_decoding(envelope: Envelope, random: Any) -> None:
    buffers = [random.randbytes(codec.tensor_bytes(tensor)) for tensor in envelope.tensors]
    message = codec.decode_message(codec.encode_message(envelope, buffers))
    assert message.envelope == envelope
    assert [bytes(buffer) for buffer in message.buffers] == buffers


@settings(deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=4))
def test_random_frames_are_not_a_message(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_message(frames)


@settings(deadline=None)
@given(ENVELOPES, st.integers(1, 9))
def test_a_tensor_of_the_wrong_size_is_rejected(envelope: Envelope, extra: int) -> None:
    tensor = Tensor("float32", (2, 3))
    envelope = replace(envelope, tensors=(tensor,))
    for size in (24 - min(extra, 24), 24 + extra):
        with pytest.raises(ProtocolError, match="does not fill"):
            codec.decode_message(codec.encode_message(envelope, [b"\0" * size]))


def test_tensors_are_not_copied() -> None:
    payload = bytearray(24)
    envelope = envelope_of(tensors=(Tensor("float32", (2, 3)),))
    frames = codec.encode_message(envelope, [payload])
    assert codec.decode_message(frames).buffers[0] is payload


@pytest.mark.parametrize(
    ("envelope", "what"),
    [
        (envelope_of(version=codec.PROTOCOL_VERSION + 1), "protocol"),
        (envelope_of(epoch=-1), "epoch"),
        (envelope_of(body=Cancel("r" * 129, 1)), "request"),
        (envelope_of(body=Cancel("", 1)), "request"),
        (envelope_of(tensors=(Tensor("int32", (-1,)),)), "shape"),
        (envelope_of(tensors=(Tensor("int32", (1,) * 9),)), "shape"),
        (envelope_of(tensors=(Tensor("int32", (1,)),)), "announced"),
        (envelope_of(tensors=(Tensor("int32", (1,)),) * (MAX_TENSORS + 1)), "tensors"),
    ],
)
def test_a_message_beyond_a_limit_is_rejected_and_the_error_names_it(
    envelope: Envelope, what: str
) -> None:
    with pytest.raises(ProtocolError, match=what):
        codec.decode_message(codec.encode_message(envelope))


def test_a_message_of_an_unknown_kind_is_rejected() -> None:
    header = orjson.loads(orjson.dumps(envelope_of()))
    header["body"]["kind"] = "exec"
    with pytest.raises(ProtocolError, match="body"):
        codec.decode_message([orjson.dumps(header)])


def test_too_many_frames_are_rejected() -> None:
    frames: list[bytes] = [b"{}"] * (2 + MAX_TENSORS)
    with pytest.raises(ProtocolError, match="frames"):
        codec.decode_message(frames)


def test_a_tensor_over_the_limit_is_rejected_by_its_shape_alone() -> None:
    envelope = envelope_of(tensors=(Tensor("float32", (2**31 - 1, 2**31 - 1)),))
    with pytest.raises(ProtocolError, match="over"):
        codec.decode_message(codec.encode_message(envelope, [b""]))


def test_a_header_over_the_limit_is_rejected() -> None:
    with pytest.raises(ProtocolError, match="over"):
        codec.decode_message([b" " * (MAX_HEADER_BYTES + 1)])


# Second parts --------------------------------------------------------------------------


@given(st.binary(max_size=40), st.integers(0, 10**15 - 1), st.lists(st.binary(), max_size=3))
def test_a_second_part_survives_encoding_and_decoding(
    name: bytes, elapsed_us: int, buffers: list[bytes]
) -> None:
    rest = codec.MessageRest(name, elapsed_us, buffers)
    assert codec.decode_rest(codec.encode_rest(rest)) == rest


@pytest.mark.parametrize(
    "first", [b"", b"boot/1/0", b"boot/1/0 ", b"boot/1/0 -1", b"b " + b"9" * 16]
)
def test_a_second_part_without_a_valid_time_is_rejected(first: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_rest([first, b"activats"])
