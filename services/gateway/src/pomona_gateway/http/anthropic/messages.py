"""``POST /v1/messages`` and its ``count_tokens``, as Anthropic's clients speak them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.chat import (
    CallPiece,
    ChatCompletion,
    DialogueReplies,
    ToolCall,
    Turn,
)
from pomona_gateway.generation.completion import GenerationStream, Waiting
from pomona_gateway.http import sse
from pomona_gateway.http.anthropic.messages_request import (
    CountRequest,
    MessagesRequest,
    Thinking,
    anthropic_messages,
    anthropic_tools,
)
from pomona_gateway.http.common.prepare_chat import dialogue_prompt, open_dialogue
from pomona_gateway.http.common.run_request import answer, gateway_of, receive
from pomona_gateway.http.errors import anthropic_error
from pomona_gateway.http.json_response import JsonResponse
from pomona_gateway.parsers import ReasoningDelta, TextDelta


async def messages(request: Request) -> Response | ASGIApp:
    """Answer one request for a message, streamed or whole."""
    asked = await receive(request, MessagesRequest)
    gateway = gateway_of(request)
    dialogue = await open_dialogue(
        gateway,
        asked.parameters(),
        anthropic_messages(asked),
        anthropic_tools(asked),
        shape=asked.shape(),
        max_tokens=asked.max_tokens,
        effort=asked.effort(),
        variables=_thinking(gateway, asked.model, asked.thinking),
    )
    writer = MessageWriter(asked, dialogue)
    return await answer(request, dialogue.completion, writer, bool(asked.stream))


async def count_tokens(request: Request) -> Response:
    """How many tokens a request's prompt has."""
    asked = await receive(request, CountRequest)
    gateway = gateway_of(request)
    variables = _thinking(gateway, asked.model, asked.thinking)
    _, language = gateway.catalogue.find(asked.model)
    tools = anthropic_tools(asked)
    _, prompt = await dialogue_prompt(language, anthropic_messages(asked), tools, variables)
    return JsonResponse({"input_tokens": len(prompt)})


def _thinking(gateway: Gateway, model: str, thinking: Thinking | None) -> dict[str, Any]:
    """The template variable for reasoning, where the model's template has one."""
    _, language = gateway.catalogue.find(model)
    wanted = thinking is not None and thinking.type != "disabled"
    if wanted and not language.output.reasons:
        raise RequestError(400, "thinking_not_supported", "this model does not reason", "thinking")
    template = language.templates.get("default")
    switch = template is not None and "enable_thinking" in template.source
    return {"enable_thinking": wanted} if switch else {}


class MessageWriter:
    """Writes a reply as Anthropic's message, whole or as events."""

    media_type = sse.MEDIA_TYPE

    def __init__(self, asked: MessagesRequest, dialogue: ChatCompletion) -> None:
        self._dialogue = dialogue
        self._shows_thought = asked.thinking is not None and asked.thinking.shown
        self._head: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": dialogue.completion.model,
        }

    def failure(self, error: RequestError) -> bytes:
        return _event(anthropic_error(error), "error")

    async def whole(self, replies: GenerationStream, pause_s: float) -> dict[str, Any]:
        [reply] = await DialogueReplies(self._dialogue, replies).whole(pause_s)
        content: list[dict[str, Any]] = []
        if reply.thought and self._shows_thought:
            content.append({"type": "thinking", "thinking": reply.thought, "signature": ""})
        if reply.text:
            content.append({"type": "text", "text": reply.text})
        content += [{**_tool_use(call), "input": call.input} for call in reply.calls]
        return {
            **self._head,
            "content": content,
            "stop_reason": _stop_reason(reply.finish, reply.stop),
            "stop_sequence": reply.stop,
            "usage": _usage(replies),
        }

    async def stream(self, replies: GenerationStream, pause_s: float) -> AsyncGenerator[bytes]:
        start = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None}
        counts = {"input_tokens": replies.usage.prompt, "output_tokens": 0}
        yield _event({"type": "message_start", "message": {**start, "usage": counts}})
        blocks = _Blocks(self._shows_thought)
        async with aclosing(DialogueReplies(self._dialogue, replies).turns(pause_s)) as turns:
            async for turn in turns:
                if isinstance(turn, Waiting):
                    yield sse.comment(str(turn)) + _event({"type": "ping"})
                    continue
                for event in blocks.write(turn):
                    yield _event(event)
                if turn.finish is None:
                    continue
                for event in blocks.close():
                    yield _event(event)
                delta = {
                    "stop_reason": _stop_reason(turn.finish, turn.stop),
                    "stop_sequence": turn.stop,
                }
                yield _event({"type": "message_delta", "delta": delta, "usage": _usage(replies)})
        yield _event({"type": "message_stop"})


class _Blocks:
    """Numbers the content blocks of a stream; one is open at a time."""

    def __init__(self, shows_thought: bool) -> None:
        self._shows_thought = shows_thought
        self._index = -1
        self._open = ""

    def write(self, turn: Turn) -> Iterator[dict[str, Any]]:
        for part in turn.parts:
            match part:
                case TextDelta(text=text):
                    yield from self._in("text", {"type": "text", "text": ""})
                    yield self._delta({"type": "text_delta", "text": text})
                case ReasoningDelta(text=text):
                    if self._shows_thought:
                        empty = {"type": "thinking", "thinking": "", "signature": ""}
                        yield from self._in("thinking", empty)
                        yield self._delta({"type": "thinking_delta", "thinking": text})
                case CallPiece():
                    if part.begins:
                        yield from self.close()
                        yield from self._in("tool_use", {**_tool_use(part), "input": {}})
                    if part.arguments:
                        delta = {"type": "input_json_delta", "partial_json": part.arguments}
                        yield self._delta(delta)
                    if part.ends:
                        yield from self.close()

    def close(self) -> Iterator[dict[str, Any]]:
        if self._open:
            yield {"type": "content_block_stop", "index": self._index}
        self._open = ""

    def _in(self, kind: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._open == kind:
            return
        yield from self.close()
        self._index += 1
        self._open = kind
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _event(content: dict[str, Any], name: str | None = None) -> bytes:
    kind = name or str(content["type"])
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(content) + b"\n\n"


def _tool_use(call: ToolCall | CallPiece) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id.replace("call_", "toolu_"), "name": call.name}


def _stop_reason(finish: str | None, stop: str | None) -> str:
    if stop is not None:
        return "stop_sequence"
    return {"length": "max_tokens", "tool_calls": "tool_use"}.get(finish or "", "end_turn")


def _usage(replies: GenerationStream) -> dict[str, int]:
    usage = replies.usage
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.reply,
    }
