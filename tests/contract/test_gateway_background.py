"""Responses in the background: retrieved, streamed again and cancelled, through OpenAI's client."""

from __future__ import annotations

from typing import Any, cast

import httpx
import openai
import pytest
from openai.types.responses import Response

from pomona.messages.pipeline import Rejected
from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script
from support.models.tiny_model import say
from support.waiting import wait_until

MODEL = "tiny"
REPLY = "hello again and again"


def create(client: openai.OpenAI, **more: Any) -> Response:
    return client.responses.create(model=MODEL, input="hi", background=True, **more)


def ended(client: openai.OpenAI, response_id: str) -> Response:
    """Polls a response until it has ended."""
    seen: list[Response] = []

    def has_ended() -> bool:
        seen.append(client.responses.retrieve(response_id))
        return seen[-1].status not in ("queued", "in_progress")

    wait_until(has_ended, "the end of the response")
    return seen[-1]


def events_of(client: openai.OpenAI, response_id: str, **after: int) -> list[Any]:
    return list(client.responses.retrieve(response_id, stream=True, **cast("Any", after)))


def test_background_response_is_answered_at_once_and_retrieved_when_it_has_ended(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, step_s=0.02)
    first = create(client)
    assert first.status in ("queued", "in_progress")
    assert first.background is True
    assert client.responses.retrieve(first.id).status in ("queued", "in_progress")
    [item] = client.responses.input_items.list(first.id).data
    assert cast("Any", item).content[0].text == "hi"
    last = ended(client, first.id)
    assert last.status == "completed"
    assert last.output_text == REPLY
    assert last.completed_at is not None
    assert last.created_at == first.created_at
    follow = client.responses.create(model=MODEL, input="more", previous_response_id=first.id)
    assert follow.output_text == REPLY


def test_stream_is_continued_after_any_event(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, step_s=0.02)
    seen: list[Any] = []
    with cast("Any", create(client, stream=True)) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    assert [x.type for x in seen[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    response_id = seen[0].response.id
    rest = events_of(client, response_id, starting_after=seen[-1].sequence_number)
    assert [x.sequence_number for x in [*seen, *rest]] == list(range(len(seen) + len(rest)))
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == REPLY
    text = "".join(x.delta for x in [*seen, *rest] if x.type == "response.output_text.delta")
    assert text == REPLY
    again = events_of(client, response_id)
    assert [x.to_json() for x in again] == [x.to_json() for x in [*seen, *rest]]
    assert events_of(client, response_id, starting_after=len(again) - 2) == again[-1:]
    assert events_of(client, response_id, starting_after=len(again) + 5) == []
    assert len(cluster.head.requests()) == 1


def test_events_of_a_response_in_the_foreground_are_streamed_again(
    client: openai.OpenAI,
) -> None:
    response = client.responses.create(model=MODEL, input="hi")
    events = events_of(client, response.id)
    assert events[-1].response == response


def test_cancel_ends_a_response_and_is_idempotent(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY * 20, step_s=0.02)
    first = create(client)
    read: list[Any] = []
    cancelled = None
    with client.responses.retrieve(first.id, stream=True) as stream:
        for event in stream:
            read.append(event)
            if len(read) == 6:
                cancelled = client.responses.cancel(first.id)
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    assert read[-1].type == "response.incomplete"
    assert read[-1].response.status == "cancelled"
    assert [x.sequence_number for x in read] == list(range(len(read)))
    wait_until(lambda: cluster.head.cancelled, "a cancel at the head")
    for _ in range(2):
        assert client.responses.cancel(first.id) == cancelled
    assert client.responses.retrieve(first.id) == cancelled
    with pytest.raises(openai.BadRequestError, match="no response"):
        client.responses.create(model=MODEL, input="x", previous_response_id=first.id)


def test_only_responses_in_the_background_can_be_cancelled(client: openai.OpenAI) -> None:
    stored = client.responses.create(model=MODEL, input="hi")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(stored.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_none")
    done = create(client)
    assert ended(client, done.id).status == "completed"
    assert client.responses.cancel(done.id).status == "completed"


def test_deleted_response_is_cancelled_and_gone(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY * 20, step_s=0.02)
    first = create(client)
    client.responses.delete(first.id)
    wait_until(lambda: cluster.head.cancelled, "a cancel at the head")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_refused_background_response_is_an_error_at_once(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, previous_response_id="resp_none")
    assert caught.value.param == "previous_response_id"


def test_background_response_that_fails_is_retrieved_as_failed(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    gone = Rejected("", 0, 503, "gone", "the model went away")
    cluster.head.script = lambda _: Script(ids=say(REPLY).ids, places=(1, 2), step_s=0.3)
    first = create(client)
    wait_until(cluster.head.requests, "a submit")
    submitted = cluster.head.requests()[-1]
    cluster.head.reject(submitted, gone)
    last = ended(client, first.id)
    assert last.status == "failed"
    assert last.error is not None
    assert last.error.message == "the model went away"


def test_client_that_leaves_a_response_in_the_foreground_cancels_it(
    client: openai.OpenAI, cluster: ScriptedCluster, gateway: GatewayThread
) -> None:
    cluster.head.script = lambda _: say(REPLY * 20, step_s=0.02)
    body = {"model": MODEL, "input": "hi", "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/responses", json=body) as answer:
        next(answer.iter_lines())
    wait_until(lambda: cluster.head.cancelled, "a cancel at the head")
