"""Replies of models whose marks of reasoning and tool calls are special tokens."""

from __future__ import annotations

from pathlib import Path

import httpx
from tokenizers import AddedToken

from pomona_gateway.text import Tokenizer
from support.doubles.gateway_thread import running_gateway
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script
from support.models.tiny_model import TEMPLATE, end_id, tiny_backend, write_tiny_model

MODEL = "marked"
MARKS = ("[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]")
CHAT_TEMPLATE = "{% if tools %}{{ tools | tojson }}[THINK][TOOL_CALLS][ARGS]{% endif %}" + TEMPLATE
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def test_special_tokens_that_mark_reasoning_and_calls_reach_the_parser(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / MODEL, CHAT_TEMPLATE)
    backend = tiny_backend()
    backend.add_special_tokens([AddedToken(mark) for mark in MARKS])
    backend.save(str(folder / "tokenizer.json"))
    said = '[THINK]hm[/THINK]Well.[TOOL_CALLS]weather[ARGS]{"city": "Rome"}'
    ids = tuple(Tokenizer(backend).encode(said, chat=True))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
    with (
        ScriptedCluster.running(
            lambda _: Script(ids=ids, end=end_id()), MODEL, str(folder)
        ) as cluster,
        running_gateway(cluster) as gateway,
    ):
        url = f"{gateway.url}/v1/chat/completions"
        message = httpx.post(url, json=body).json()["choices"][0]["message"]
    assert message["reasoning_content"] == "hm"
    assert message["content"] == "Well."
    [call] = message["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
