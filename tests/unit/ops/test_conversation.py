"""``pomona chat`` at a terminal: messages, commands and wrapped answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from pomona_ops.commands.chat import Chat, ChatError, ChatOptions
from pomona_ops.commands.conversation import Conversation, WordWrapper, prompt_session

PASTE = "\x1b[200~{}\x1b[201~"


class Gateway:
    """Answers like a gateway with two models, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "tiny"}, {"id": "other"}]})
        self.requests.append(json.loads(request.content))
        event = json.dumps({"choices": [{"delta": {"content": "an answer"}}]})
        return httpx.Response(200, text=f"data: {event}\n\ndata: [DONE]\n\n")


def converse(keys: str) -> tuple[list[dict[str, Any]], str]:
    """Types the keys, then Ctrl-D. Returns the gateway's requests, and the output."""
    gateway, output = Gateway(), io.StringIO()
    client = httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(gateway))
    with create_pipe_input() as reader, client:
        reader.send_text(keys + "\x04")
        session = prompt_session(reader, DummyOutput())
        assert Conversation(Chat(client, ChatOptions(1)), session, output).run() == 0
    return gateway.requests, output.getvalue()


def questions(keys: str) -> list[list[str]]:
    """The users' messages of each request."""
    return [[x["content"] for x in r["messages"][::2]] for r in converse(keys)[0]]


def test_enter_sends_and_the_history_goes_with_the_next_message() -> None:
    assert questions("one\rtwo\r") == [["one"], ["one", "two"]]


def test_a_pasted_block_is_one_message() -> None:
    assert questions(PASTE.format("a\nb\n\nc") + "\r") == [["a\nb\n\nc"]]


@pytest.mark.parametrize("key", ["\n", "\x1b\r"])
def test_a_message_may_have_several_lines(key: str) -> None:
    assert questions(f"a{key}b\r") == [["a\nb"]]


@pytest.mark.parametrize("word", ["exit", "quit", "/exit", "EXIT"])
def test_a_word_ends_the_chat(word: str) -> None:
    assert questions(f"{word}\rmore\r") == []


def test_new_starts_over() -> None:
    assert questions("one\r/new\rtwo\r") == [["one"], ["two"]]


def test_model_lists_and_changes_the_model() -> None:
    requests, output = converse("/model\r/model OTHER\rhi\r/model none\r")
    assert "* tiny\n  other" in output
    assert [x["model"] for x in requests] == ["other"]
    assert "there is no model 'none'" in output


def test_save_writes_the_conversation_and_replaces_no_file(tmp_path: Path) -> None:
    path = tmp_path / "chat.md"
    _, output = converse(f"one\r/save {path}\r/save {path}\r/save\r/save {tmp_path}/no/x\r")
    assert path.read_text() == "**user**\n\none\n\n**assistant**\n\nan answer\n"
    for text in ("saved in", "exists already", "needs the name", "cannot be written"):
        assert text in output


def test_an_unknown_command_is_not_sent_but_a_pasted_path_with_lines_is() -> None:
    requests, output = converse("/nosuch\r/help\r")
    assert (requests, "/help lists them" in output, "Alt-Enter" in output) == ([], True, True)
    assert questions(PASTE.format("/etc/hosts:\nline") + "\r") == [["/etc/hosts:\nline"]]


def wrapped(text: str, width: int, size: int = 1) -> str:
    wrapper = WordWrapper(width)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return "".join(map(wrapper.add, pieces)) + wrapper.end()


def test_lines_break_between_words() -> None:
    assert wrapped("the quick brown fox", 10) == "the quick\nbrown fox"
    assert wrapped("  indented\ncode", 80) == "  indented\ncode"
    assert wrapped("any text", 0) == "any text"


@example("  aaaa", 4, 1)
@given(st.text(alphabet="ab \n\u4e2d", max_size=80), st.integers(4, 20), st.integers(1, 5))
def test_wrapping_keeps_every_word_and_the_width(text: str, width: int, size: int) -> None:
    from prompt_toolkit.utils import get_cwidth

    found = wrapped(text, width, size)
    assert found == wrapped(text, width)
    assert "".join(found.split()) == "".join(text.split())
    assert all(get_cwidth(line) <= width + 1 for line in found.split("\n"))


def test_a_question_waits_until_its_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    gateway, refused = Gateway(), 0
    codes = ("model_loading", "model_not_ready")

    def load_first(request: httpx.Request) -> httpx.Response:
        nonlocal refused
        if request.url.path == "/v1/chat/completions" and refused < 2:
            error = {"code": codes[refused], "message": "tiny is being loaded"}
            refused += 1
            return httpx.Response(503, json={"error": error}, headers={"retry-after": "0"})
        return gateway(request)

    client = httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(load_first))
    with client:
        assert "".join(Chat(client, ChatOptions(1)).ask("Hi")) == "an answer"
    assert refused == 2
    assert capsys.readouterr().err == "pomona: tiny is being loaded\n"


def test_a_question_does_not_wait_for_a_model_that_nothing_loads() -> None:
    error = {"code": "model_not_ready", "message": "tiny fits on no nodes"}
    answer = httpx.Response(503, json={"error": error}, headers={"retry-after": "0"})
    with httpx.Client(
        base_url="http://gateway", transport=httpx.MockTransport(lambda _: answer)
    ) as client:
        chat = Chat(client, ChatOptions(1, model="tiny"))
        with pytest.raises(ChatError, match="fits on no nodes"):
            list(chat.ask("Hi"))


def test_a_model_that_is_ready_is_chosen_before_one_that_is_not() -> None:
    models = [{"id": "away", "ready": False}, {"id": "here", "ready": True}]
    answer = httpx.MockTransport(lambda _: httpx.Response(200, json={"data": models}))
    with httpx.Client(base_url="http://gateway", transport=answer) as client:
        assert Chat(client, ChatOptions(1)).model == "here"
