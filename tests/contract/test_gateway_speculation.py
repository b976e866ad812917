"""Guesses at the gateway: whether they are wanted, what is predicted, and how they are counted."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Submitted
from support.models.tiny_model import say, tiny_tokenizer

MODEL = "org/tiny"

pytestmark = pytest.mark.usefixtures("fresh")


def post(gateway: GatewayThread, path: str = "chat/completions", **body: Any) -> httpx.Response:
    content = {"prompt": "hi"} if path == "completions" else {}
    messages = {} if content else {"messages": [{"role": "user", "content": "hi"}]}
    whole = {"model": MODEL, **content, **messages, **body}
    answer = httpx.post(f"{gateway.url}/v1/{path}", json=whole, verify=False)
    answer.raise_for_status()
    return answer


def only(cluster: ScriptedCluster) -> Submitted:
    [submitted] = cluster.head.requests()
    return submitted


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize(("sent", "wanted"), [({}, True), ({"speculative": False}, False)])
def test_a_request_may_turn_guesses_off(
    gateway: GatewayThread,
    cluster: ScriptedCluster,
    path: str,
    sent: dict[str, Any],
    wanted: bool,
) -> None:
    answer = post(gateway, path, **sent)
    assert only(cluster).submit.speculative is wanted
    assert "x-pomona-ignored" not in answer.headers


@pytest.mark.parametrize(
    "content", ["hello there", [{"type": "text", "text": "hello "}, {"text": "there"}]]
)
def test_a_predicted_reply_goes_to_the_head(
    gateway: GatewayThread, cluster: ScriptedCluster, content: Any
) -> None:
    answer = post(gateway, prediction={"type": "content", "content": content})
    expected = tiny_tokenizer().encode("hello there", chat=False)
    assert only(cluster).prediction == tuple(expected)
    assert "x-pomona-ignored" not in answer.headers


@pytest.mark.parametrize("prediction", ["text", 3, {"content": 5}, {"content": []}, [None], {}])
def test_a_prediction_in_another_form_has_no_effect_and_is_named(
    gateway: GatewayThread, cluster: ScriptedCluster, prediction: Any
) -> None:
    answer = post(gateway, prediction=prediction)
    assert only(cluster).prediction == ()
    assert answer.headers["x-pomona-ignored"] == "prediction"


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_usage_counts_right_and_wrong_guesses(
    gateway: GatewayThread, cluster: ScriptedCluster, path: str
) -> None:
    cluster.head.script = lambda _: say("hello", guesses=(3, 2))
    usage = post(gateway, path).json()["usage"]
    details = usage["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == 3
    assert details["rejected_prediction_tokens"] == 2
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
