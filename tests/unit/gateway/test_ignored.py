"""Parameters without effect are named by their paths, bounded."""

from __future__ import annotations

import pytest

from pomona.errors import RequestError
from pomona_gateway.http.ignored import MAX_PATHS, IgnoredParameters, collect_ignored
from pomona_gateway.http.openai.chat_request import ChatRequest
from pomona_gateway.http.request_body import parse_body
from pomona_gateway.metrics import MAX_IGNORED_PATHS, Metrics

BODY = b"""{"model": "m", "user": "me", "colour": 1, "size": null, "messages": [
    {"role": "user", "content": [{"type": "text", "text": "x", "shade": 2}], "name": "n"}],
    "tools": [{"type": "web_search", "max_uses": 1}]}"""


def test_paths_of_hints_unknown_parameters_and_left_out_parts_are_collected() -> None:
    ignored = IgnoredParameters()
    collect_ignored(parse_body(ChatRequest, BODY), ignored, refuse_unknown=False)
    assert set(ignored.header().split(", ")) == {
        "user", "colour", "messages[0].content[0].shade", "tools[0].web_search",
    }  # fmt: skip
    assert "messages.content.shade" in ignored.labels()


def test_unknown_parameter_is_400_if_refused() -> None:
    with pytest.raises(RequestError) as caught:
        collect_ignored(parse_body(ChatRequest, BODY), IgnoredParameters(), refuse_unknown=True)
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "colour")


def test_hints_are_never_refused() -> None:
    ignored = IgnoredParameters()
    body = parse_body(
        ChatRequest, b'{"model":"m","store":true,"messages":[{"role":"user","content":"x"}]}'
    )
    collect_ignored(body, ignored, refuse_unknown=True)
    assert ignored.header() == "store"


def test_header_is_bounded_and_safe() -> None:
    ignored = IgnoredParameters()
    ignored.add("a\r\nset-cookie: x, y\u00e9" + "z" * 10_000)
    for index in range(10_000):
        ignored.add(f"p{index}")
    header = ignored.header()
    assert header.isascii()
    assert header.isprintable()
    assert header.endswith(f", +{10_001 - MAX_PATHS}")
    assert len(header) < 16 << 10


def test_metric_tells_a_bounded_number_of_paths_apart() -> None:
    metrics = Metrics()
    new = [metrics.observe_ignored("openai", f"p{index}") for index in range(1000)]
    assert sum(new) == MAX_IGNORED_PATHS
    assert not metrics.observe_ignored("openai", "p0")
    text = metrics.exposition().decode()
    assert text.count("\npomona_parameters_ignored_total{") == MAX_IGNORED_PATHS + 1
    assert 'path="other"' in text


def test_an_empty_name_gives_a_valid_header() -> None:
    ignored = IgnoredParameters()
    for path in ("0", ""):
        ignored.add(path)
    assert ignored.header() == "0, ''"
