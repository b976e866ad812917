"""Text completions with ``echo``: the prompt and its logprobs before the reply."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import openai
import pytest

from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script
from support.models.tiny_model import end_id, tiny_tokenizer
from support.waiting import wait_until

MODEL = "org/tiny"
TOKENIZER = tiny_tokenizer()
BEGIN = TOKENIZER.special_tokens["<|begin|>"]
A, HELLO = 65, 259
"""Token ids of "A" and "hello"."""


def logprobs_of(token: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Returns the logprob and the top logprobs of a token: A is always the most likely one, and
    a token's own logprob follows from its id. Exact in float32."""
    return -token / 128, ((A, -0.125), (HELLO, -0.25))


def say(text: str, **script: Any) -> Script:
    ids = tuple(TOKENIZER.encode(text, chat=True))
    return Script(ids=ids, end=end_id(), logprobs=logprobs_of, **script)


@pytest.fixture(autouse=True)
def _default_script(fresh: None, cluster: ScriptedCluster) -> None:  # pyright: ignore[reportUnusedFunction]
    cluster.head.script = lambda _: say("hello!")


def expected_logprobs(ids: list[int]) -> list[float | None]:
    return [None, *(-i / 128 for i in ids[1:])]


def test_echoed_prompt_has_a_logprob_for_every_token_but_the_first(
    client: openai.OpenAI,
) -> None:
    prompt = "Ahello wörld"
    ids = list(TOKENIZER.encode(prompt, chat=False))
    reply = client.completions.create(
        model=MODEL, prompt=prompt, echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    [choice] = reply.choices
    assert choice.text == prompt + "hello"
    found = choice.logprobs
    assert found is not None
    assert found.token_logprobs == [*expected_logprobs(ids), -HELLO / 128]
    assert found.tokens == [*(TOKENIZER.token_text(i) for i in ids), "hello"]
    assert found.tokens is not None
    assert found.tokens[:2] == ["A", "hello"]
    assert found.top_logprobs is not None
    assert found.top_logprobs[0] is None
    assert found.top_logprobs[1] == {"A": -0.125, "hello": -HELLO / 128}
    assert found.text_offset is not None
    assert found.text_offset[:3] == [0, 1, 6]
    assert found.text_offset[-1] == len(prompt)
    assert len(found.text_offset) == len(ids) + 1


def test_echo_with_max_tokens_0_returns_only_the_prompt(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model=MODEL, prompt=[A, HELLO], echo=True, logprobs=0, max_tokens=0
    )
    [choice] = reply.choices
    assert (choice.text, choice.finish_reason) == ("Ahello", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == expected_logprobs([A, HELLO])
    assert choice.logprobs.top_logprobs == [None, {"hello": -HELLO / 128}]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2, 0)
    plain = client.completions.create(model=MODEL, prompt="hello", echo=True, max_tokens=0)
    assert plain.choices[0].text == "hello"
    assert plain.choices[0].logprobs is None


def test_prompts_of_ids_keep_their_order_and_a_single_token_has_no_logprob(
    client: openai.OpenAI,
) -> None:
    rows = [[BEGIN, A, HELLO], [HELLO], [A] * 9]
    reply = client.completions.create(
        model=MODEL, prompt=rows, echo=True, logprobs=1, max_tokens=1, n=2
    )
    assert [choice.index for choice in reply.choices] == list(range(6))
    for choice in reply.choices:
        row = rows[choice.index // 2]
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == [*expected_logprobs(row), -HELLO / 128]
    assert reply.choices[0].text == "<|begin|>Ahellohello"
    assert reply.choices[2].text == "hellohello"


def test_streamed_echo_equals_the_whole_response(client: openai.OpenAI) -> None:
    body: dict[str, Any] = {
        "model": MODEL,
        "prompt": ["hello ÄÖÜ 日本", "A"],
        "echo": True,
        "logprobs": 2,
        "max_tokens": 100,
    }
    whole = client.completions.create(**body)
    parts: dict[int, list[Any]] = {0: [], 1: []}
    for chunk in client.completions.create(**body, stream=True):
        for choice in chunk.choices:
            parts[choice.index].append(choice)
    for choice in whole.choices:
        mine = parts[choice.index]
        assert "".join(part.text for part in mine) == choice.text
        assert choice.logprobs is not None
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [x for part in mine for x in getattr(part.logprobs, name)]
            assert joined == getattr(choice.logprobs, name)


def test_failed_epoch_does_not_repeat_prompt_logprobs(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    def script(submitted: Any) -> Script:
        return say("hello!", fail_logprobs_after=2 if submitted.submit.attempt == 0 else None)

    cluster.head.script = script
    ids = list(TOKENIZER.encode("what is said again?", chat=False))
    answers: list[dict[str, Any]] = []

    def send_request() -> None:
        body = {"model": MODEL, "prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 0}
        answer = httpx.post(f"{gateway.url}/v1/completions", json=body, verify=False, timeout=30)
        answers.append(answer.json())

    sender = threading.Thread(target=send_request)
    sender.start()
    wait_until(lambda: cluster.head.requests(), "the first attempt")
    cluster.epoch += 1
    cluster.change()
    sender.join(30)
    assert answers[0]["choices"][0]["logprobs"]["token_logprobs"] == expected_logprobs(ids), (
        json.dumps(answers)
    )
    first, *others = [x.submit for x in cluster.head.requests()]
    assert first.scored == 0
    # Each message has three; the new epoch may arrive before, between or after them.
    assert others[-1].scored in (0, 3, 6)
    assert others[-1].emitted == 0


def test_prompt_logprobs_are_requested_only_with_echo_and_logprobs(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    client.completions.create(model=MODEL, prompt="hello", logprobs=1)
    client.completions.create(model=MODEL, prompt="hello", echo=True)
    assert [x.submit.sampling.prompt_logprobs for x in cluster.head.requests()] == [None, None]
