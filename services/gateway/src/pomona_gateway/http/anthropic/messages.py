"""Anthropic's ``POST /v1/messages`` and ``POST /v1/messages/count_tokens``
(https://docs.claude.com/en/api/messages)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.generation.chat import (
    ChatCompletion,
    ChatDelta,
    ChatStream,
    ToolCall,
    ToolCallDelta,
)
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.http import sse
from pomona_gateway.http.anthropic.messages_request import CountRequest, MessagesRequest
from pomona_gateway.http.common.chat_messages import continues_last
from pomona_gateway.http.common.prepare_chat import prepare_chat, render_prompt
from pomona_gateway.http.common.reasoning import reasoning_variables
from pomona_gateway.http.common.run_request import gateway_of, read_request, run_request
from pomona_gateway.http.errors import anthropic_error
from pomona_gateway.http.ignored import ignored_of
from pomona_gateway.http.respond import JsonResponse
from pomona_gateway.parsers import ReasoningDelta, TextDelta
from pomona_gateway.runs.run_context import new_hex


async def messages(request: Request) -> Response | ASGIApp:
    """Answers a conversation with a message, whole or streamed."""
    body = await read_request(request, MessagesRequest)
    ignored = ignored_of(request)
    conversation = body.conversation(ignored)
    chat = await prepare_chat(
        gateway_of(request),
        body.parameters(),
        conversation,
        body.offered_tools(),
        max_tokens=body.max_tokens,
        ignored=ignored,
        shape=body.shape(),
        wish=body.wish(),
        continue_final=continues_last(conversation),
    )
    return await run_request(request, chat.completion, MessageWriter(body, chat), bool(body.stream))


async def count_tokens(request: Request) -> Response:
    """Counts the tokens of a request's prompt."""
    body = await read_request(request, CountRequest)
    ignored = ignored_of(request)
    _, language = gateway_of(request).models.find(body.model)
    conversation = body.conversation(ignored)
    _, prompt = await render_prompt(
        language,
        conversation,
        body.offered_tools(),
        reasoning_variables(language, body.wish(), ignored),
        continues_last(conversation),
    )
    return JsonResponse({"input_tokens": len(prompt)})


class MessageWriter:
    """Writes a reply as Anthropic's message, or as the events of one."""

    media_type = sse.MEDIA_TYPE

    def __init__(self, body: MessagesRequest, chat: ChatCompletion) -> None:
        self._chat = chat
        self._with_thinking = body.thinking is not None and body.thinking.is_shown
        self._head: dict[str, Any] = {
            "id": f"msg_{new_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": chat.completion.model,
        }

    async def whole(self, stream: GenerationStream, keep_alive_s: float) -> dict[str, Any]:
        """Returns the message object."""
        [reply] = await ChatStream(self._chat, stream).collect(keep_alive_s)
        content: list[dict[str, Any]] = []
        if reply.reasoning and self._with_thinking:
            content.append({"type": "thinking", "thinking": reply.reasoning, "signature": ""})
        if reply.text:
            content.append({"type": "text", "text": reply.text})
        content += [{**_tool_use(call), "input": call.input} for call in reply.calls]
        return {
            **self._head,
            "content": content,
            "stop_reason": _stop_reason(reply.finish, reply.stop),
            "stop_sequence": reply.stop,
            "usage": _usage(stream),
        }

    async def chunks(self, stream: GenerationStream, keep_alive_s: float) -> AsyncGenerator[bytes]:
        """Yields events; pings while there is no text."""
        start = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None}
        counts = {"input_tokens": stream.usage.prompt, "output_tokens": 0}
        yield _encode({"type": "message_start", "message": {**start, "usage": counts}})
        blocks = _ContentBlocks(self._with_thinking)
        async with aclosing(ChatStream(self._chat, stream).deltas(keep_alive_s)) as turns:
            async for turn in turns:
                if isinstance(turn, PromptProgress):
                    yield sse.comment(str(turn)) + _encode({"type": "ping"})
                    continue
                for event in blocks.add(turn):
                    yield _encode(event)
                if turn.finish is None:
                    continue
                for event in blocks.end_block():
                    yield _encode(event)
                delta = {
                    "stop_reason": _stop_reason(turn.finish, turn.stop),
                    "stop_sequence": turn.stop,
                }
                yield _encode({"type": "message_delta", "delta": delta, "usage": _usage(stream)})
        yield _encode({"type": "message_stop"})

    def keep_alive_chunk(self) -> bytes:
        """Encodes a comment."""
        return sse.WORKING

    def error_chunk(self, error: RequestError) -> bytes:
        """Encodes an error event."""
        return _encode(anthropic_error(error))


class _ContentBlocks:
    """Numbers the content blocks of a stream. At most one block is open."""

    def __init__(self, with_thinking: bool) -> None:
        self._with_thinking = with_thinking
        self._index = -1
        self._open_type = ""

    def add(self, turn: ChatDelta) -> Iterator[dict[str, Any]]:
        """Yields the events for a turn."""
        for part in turn.parts:
            match part:
                case TextDelta(text=text):
                    yield from self._open_block("text", {"type": "text", "text": ""})
                    yield self._delta({"type": "text_delta", "text": text})
                case ReasoningDelta(text=text):
                    if self._with_thinking:
                        empty = {"type": "thinking", "thinking": "", "signature": ""}
                        yield from self._open_block("thinking", empty)
                        yield self._delta({"type": "thinking_delta", "thinking": text})
                case ToolCallDelta():
                    if part.first:
                        yield from self.end_block()
                        yield from self._open_block("tool_use", {**_tool_use(part), "input": {}})
                    if part.arguments:
                        delta = {"type": "input_json_delta", "partial_json": part.arguments}
                        yield self._delta(delta)
                    if part.last:
                        yield from self.end_block()

    def end_block(self) -> Iterator[dict[str, Any]]:
        """Yields the event that ends the open block, if there is one."""
        if self._open_type:
            yield {"type": "content_block_stop", "index": self._index}
        self._open_type = ""

    def _open_block(self, block_type: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._open_type == block_type:
            return
        yield from self.end_block()
        self._index += 1
        self._open_type = block_type
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _encode(event: dict[str, Any]) -> bytes:
    return sse.event(str(event["type"]), event)


def _tool_use(call: ToolCall | ToolCallDelta) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id.replace("call_", "toolu_"), "name": call.name}


def _stop_reason(finish: str | None, stop: str | None) -> str:
    if stop is not None:
        return "stop_sequence"
    return {"length": "max_tokens", "tool_calls": "tool_use"}.get(finish or "", "end_turn")


def _usage(stream: GenerationStream) -> dict[str, int]:
    usage = stream.usage
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.reply,
    }
