"""Chats and text completions through OpenAI's own client, over real HTTP and real links."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from pomona.messages.pipeline import Rejected
from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script, Submitted
from support.models.tiny_model import end_id, say, tiny_tokenizer
from support.waiting import wait_until

MODEL = "org/tiny"
REPLY = "hello wörld 😀, said 日本"
TOKENIZER = tiny_tokenizer()


pytestmark = pytest.mark.usefixtures("fresh")


def post(gateway: GatewayThread, **body: Any) -> httpx.Response:
    whole = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **body}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=whole, verify=False)


def logprobs_of(token: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    return -0.5, ((token, -0.5), (65, -1.5))


def only(cluster: ScriptedCluster) -> Submitted:
    [submitted] = cluster.head.requests()
    return submitted


def test_whole_reply_has_text_finish_reason_and_usage(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}]
    )
    assert reply.choices[0].message.content == REPLY
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    length = len(TOKENIZER.encode(REPLY, chat=True)) + 1
    assert reply.usage.completion_tokens == length
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + length


def test_streamed_reply_has_the_same_text_and_usage_on_request(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == REPLY
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len({c.id for c in chunks}) == 1


def test_prompt_is_the_rendered_template(client: openai.OpenAI, cluster: ScriptedCluster) -> None:
    client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}],
            },
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": "go"},
        ],
    )
    text = TOKENIZER.decode(only(cluster).ids, skip_special=False)
    assert text == (
        "<|begin|>system\nbe brief<|end|><|begin|>user\nhi<|end|>"
        "<|begin|>assistant\nyes?<|end|><|begin|>user\ngo<|end|><|begin|>assistant\n"
    )


def test_every_sampling_parameter_reaches_the_head(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    answer = post(
        gateway,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        logit_bias={"5": 3, "9": -100},
        seed=-1,
        max_completion_tokens=4,
        min_tokens=2,
        stop_token_ids=[3],
        logprobs=True,
        top_logprobs=2,
    )
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    sampling = only(cluster).submit.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -0.5)
    assert sampling.logit_bias == ((5, 3.0), (9, -100.0))
    assert sampling.seed == 2**64 - 1
    assert (sampling.max_tokens, sampling.min_tokens, sampling.logprobs) == (4, 2, 2)
    assert set(sampling.stop_ids) == {3, end_id()}


def test_default_temperature_is_openais_and_max_tokens_the_rest_of_the_context(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    post(gateway)
    post(gateway)
    first, second = cluster.head.requests()
    assert first.submit.sampling.temperature == 1.0
    assert first.submit.sampling.max_tokens == 512 - len(first.ids)
    assert first.submit.sampling.seed != second.submit.sampling.seed


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("stop", ["world", ["x", "wörld"], ["hello wörld 😀, said 日本語", "😀"]])
def test_reply_ends_before_a_stop_string(
    gateway: GatewayThread, cluster: ScriptedCluster, stop: str | list[str], batch: int
) -> None:
    cluster.head.script = lambda _: say(REPLY, batch=batch)
    body = post(gateway, stop=stop).json()
    stops = [stop] if isinstance(stop, str) else stop
    cut = min((REPLY.find(s) for s in stops if s in REPLY), default=len(REPLY))
    assert body["choices"][0]["message"]["content"] == REPLY[:cut]
    assert body["choices"][0]["finish_reason"] == "stop"


def test_stop_string_cancels_the_request(gateway: GatewayThread, cluster: ScriptedCluster) -> None:
    cluster.head.script = lambda _: say(REPLY * 8, step_s=0.01)
    assert post(gateway, stop="w").json()["choices"][0]["message"]["content"] == "hello "
    wait_until(lambda: cluster.head.cancelled, "a cancel")


def test_n_replies_have_different_seeds(client: openai.OpenAI, cluster: ScriptedCluster) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], n=3, seed=7
    )
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert [c.message.content for c in reply.choices] == [REPLY] * 3
    assert [x.submit.sampling.seed for x in cluster.head.requests()] == [7, 8, 9]


def test_logprobs_cover_every_token_of_the_text(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, logprobs=logprobs_of)
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert b"".join(bytes(t.bytes or ()) for t in logprobs.content).decode() == REPLY
    assert {t.logprob for t in logprobs.content} == {-0.5}
    assert [t.token for t in logprobs.content[0].top_logprobs] == ["hello", "A"]


def test_usage_reports_cached_prompt_tokens(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, cached=5)
    usage = post(gateway).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 5}


def test_full_queue_is_429_with_retry_after_even_for_a_stream(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    full = Rejected("", 0, 429, "queue_full", "32 requests wait", 90)
    cluster.head.script = lambda _: Script(reject=full)
    for stream in (False, True):
        answer = post(gateway, stream=stream)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "60"
        assert answer.json()["error"]["code"] == "queue_full"


def test_text_completion_accepts_text_or_ids_and_echoes_them(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, logprobs=logprobs_of)
    reply = client.completions.create(model=MODEL, prompt="hello", logprobs=1, max_tokens=100)
    assert reply.choices[0].text == REPLY
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert logprobs.tokens[:2] == ["hello", " "]
    assert logprobs.text_offset[:3] == [0, 5, 6]
    reply = client.completions.create(model=MODEL, prompt=[259, 65], echo=True, max_tokens=1)
    assert reply.choices[0].text == "helloAhello"
    assert reply.choices[0].finish_reason == "length"
    assert cluster.head.requests()[-1].ids == [259, 65]


def test_streamed_text_completion_has_the_same_text(client: openai.OpenAI) -> None:
    chunks = client.completions.create(model=MODEL, prompt="ab", stream=True, max_tokens=100)
    assert "".join(chunk.choices[0].text for chunk in chunks) == REPLY


def test_replies_to_several_prompts_are_in_order(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model=MODEL, prompt=["one", "two"], n=2, echo=True, max_tokens=1
    )
    assert [x.text for x in reply.choices] == ["onehello", "onehello", "twohello", "twohello"]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (6, 4)


def test_max_tokens_0_gives_an_empty_reply(client: openai.OpenAI) -> None:
    reply = client.completions.create(model=MODEL, prompt="one", max_tokens=0)
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("", "length")
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 0


def test_lower_of_two_token_limits_applies(client: openai.OpenAI) -> None:
    for limits in ((2, 1), (1, 2)):
        reply = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=limits[0],
            max_completion_tokens=limits[1],
        )
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [999999]}, "prompt"),
    ],
)
def test_unsupported_completion_parameters_are_refused(
    gateway: GatewayThread, change: dict[str, Any], param: str
) -> None:
    body = {"model": MODEL, "prompt": "x", **change}
    answer = httpx.post(f"{gateway.url}/v1/completions", json=body, verify=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
