"""``POST /v1/chat/completions`` (https://platform.openai.com/docs/api-reference/chat).

A streamed chat takes this way::

    read_request    the body, validated as ChatRequest
    prepare_chat    prompt, sampling and grammar, as ChatCompletion
    run_request     admission, GenerationStream, StreamedResponse
    ChatWriter      turns of the GenerationStream, as server-sent events
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.generation.chat import (
    ChatCompletion,
    ChatDelta,
    ChatPart,
    ChatReply,
    ChatStream,
    ToolCall,
    ToolCallDelta,
)
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.generation.detokenizer import TokenLogprob
from pomona_gateway.http import sse
from pomona_gateway.http.common.custom_calls import CustomCalls, custom_input
from pomona_gateway.http.common.prepare_chat import prepare_chat
from pomona_gateway.http.common.reasoning import effort_wish
from pomona_gateway.http.common.run_request import gateway_of, read_request, run_request
from pomona_gateway.http.common.tools import custom_names
from pomona_gateway.http.ignored import ignored_of
from pomona_gateway.http.openai.chat_request import ChatRequest
from pomona_gateway.http.openai.objects import error_chunk, response_head, usage_object
from pomona_gateway.parsers import ReasoningDelta, TextDelta
from pomona_gateway.text import Vocabulary


async def chat_completions(request: Request) -> Response | ASGIApp:
    """Answers a chat, whole or streamed."""
    body = await read_request(request, ChatRequest)
    ignored = ignored_of(request)
    conversation = body.conversation(ignored)
    chat = await prepare_chat(
        gateway_of(request),
        body,
        conversation,
        body.offered_tools(),
        max_tokens=body.max_reply_tokens(),
        ignored=ignored,
        shape=body.shape(),
        top_logprobs=body.reported_logprobs(),
        wish=effort_wish(body.reasoning_effort, "reasoning_effort"),
        template_variables=body.template_variables(),
        continue_final=body.continues_last(conversation, ignored),
        prediction=body.predicted_text(ignored),
    )
    return await run_request(request, chat.completion, ChatWriter(body, chat), bool(body.stream))


class ChatWriter:
    """Writes replies as a chat completion object, or as chat completion chunks."""

    media_type = sse.MEDIA_TYPE

    def __init__(self, body: ChatRequest, chat: ChatCompletion) -> None:
        self._body = body
        self._chat = chat
        self._custom = custom_names(body.tools)
        self._tokenizer = chat.completion.language.tokenizer
        object_type = "chat.completion.chunk" if body.stream else "chat.completion"
        self._head = response_head(object_type, "chatcmpl", chat.completion)

    async def whole(self, stream: GenerationStream, keep_alive_s: float) -> dict[str, Any]:
        """Returns one object with every reply."""
        replies = ChatStream(self._chat, stream)
        choices = [
            {
                "index": index,
                "message": self._message(reply),
                "logprobs": self._logprobs_object(reply.logprobs),
                "finish_reason": self._finish_reason(reply.finish),
            }
            for index, reply in enumerate(await replies.collect(keep_alive_s))
        ]
        usage = usage_object(stream.usage, replies.reasoning_tokens)
        return {**self._head, "choices": choices, "usage": usage}

    async def chunks(self, stream: GenerationStream, keep_alive_s: float) -> AsyncGenerator[bytes]:
        """Yields chunks as events, and comments while there is no text."""
        options = self._body.stream_options
        with_usage = options is not None and bool(options.include_usage)
        every_chunk = options is not None and bool(options.continuous_usage_stats)
        started: set[int] = set()
        replies = ChatStream(self._chat, stream)
        custom_calls = CustomCalls(self._custom)

        def encode(choices: list[dict[str, Any]], with_counts: bool) -> bytes:
            chunk = {**self._head, "choices": choices}
            if with_counts:
                chunk["usage"] = usage_object(stream.usage, replies.reasoning_tokens)
            elif with_usage:
                chunk["usage"] = None
            return sse.data(chunk)

        yield sse.comment("accepted")
        async with aclosing(replies.deltas(keep_alive_s)) as turns:
            async for turn in turns:
                if isinstance(turn, PromptProgress):
                    yield sse.comment(str(turn))
                    continue
                if turn.index not in started:
                    started.add(turn.index)
                    first = self._choice(turn.index, {"role": "assistant", "content": ""})
                    yield encode([first], every_chunk)
                for choice in self._choices(custom_calls.merge(turn)):
                    yield encode([choice], every_chunk)
        if with_usage:
            yield encode([], True)
        yield sse.DONE

    def keep_alive_chunk(self) -> bytes:
        """Encodes a comment."""
        return sse.WORKING

    def error_chunk(self, error: RequestError) -> bytes:
        """Encodes an error and the end of the stream."""
        return error_chunk(error)

    def _choices(self, turn: ChatDelta) -> Iterator[dict[str, Any]]:
        logprobs = turn.logprobs
        deltas = [self._delta(part) for part in turn.parts]
        for delta in deltas or ([{"content": ""}] if logprobs else []):
            yield self._choice(turn.index, delta, logprobs)
            logprobs = ()
        if turn.finish is not None:
            yield self._choice(turn.index, {}, finish=self._finish_reason(turn.finish))

    def _message(self, reply: ChatReply) -> dict[str, Any]:
        message = message_object(reply, self._custom)
        if self._body.is_legacy and (calls := message.pop("tool_calls", None)):
            message["function_call"] = calls[0]["function"]
        return message

    def _delta(self, part: ChatPart) -> dict[str, Any]:
        delta = delta_object(part, self._custom)
        if self._body.is_legacy and (calls := delta.pop("tool_calls", None)):
            delta["function_call"] = calls[0]["function"]
        return delta

    def _finish_reason(self, finish: str | None) -> str | None:
        return "function_call" if self._body.is_legacy and finish == "tool_calls" else finish

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: Sequence[TokenLogprob] = (),
        finish: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs_object(logprobs) if logprobs else None,
            "finish_reason": finish,
        }

    def _logprobs_object(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return {
            "content": [
                {
                    **token_object(self._tokenizer, sampled.token, sampled.logprob),
                    "top_logprobs": [
                        token_object(self._tokenizer, token, logprob)
                        for token, logprob in sampled.top
                    ],
                }
                for sampled in logprobs
            ],
            "refusal": None,
        }


def message_object(reply: ChatReply, custom: Collection[str] = ()) -> dict[str, Any]:
    """Returns OpenAI's assistant message. ``custom``: names of the custom tools."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [call_object(call, custom) for call in reply.calls]
    return message


def delta_object(part: ChatPart, custom: Collection[str] = ()) -> dict[str, Any]:
    """Returns OpenAI's message delta. ``custom``: names of the custom tools."""
    match part:
        case TextDelta(text=text):
            return {"content": text}
        case ReasoningDelta(text=text):
            return {"reasoning_content": text}
        case ToolCallDelta(first=True):
            call = call_object(ToolCall(part.id, part.index, part.name, part.arguments), custom)
            return {"tool_calls": [{"index": part.index, **call}]}
        case ToolCallDelta():
            piece = {"index": part.index, "function": {"arguments": part.arguments}}
            return {"tool_calls": [piece]}


def call_object(call: ToolCall, custom: Collection[str] = ()) -> dict[str, Any]:
    """Returns OpenAI's tool call; the call of a custom tool has a text as its input."""
    if call.name in custom:
        given = {"name": call.name, "input": custom_input(call.input)}
        return {"id": call.id, "type": "custom", "custom": given}
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def token_object(tokenizer: Vocabulary, token: int, logprob: float | None) -> dict[str, Any]:
    """Returns OpenAI's object for a token with its logprob and its bytes."""
    raw = tokenizer.token_bytes(token)
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}
