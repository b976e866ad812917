"""``POST /v1/chat/completions`` (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
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
from pomona_gateway.grammar import Shape
from pomona_gateway.http import sse
from pomona_gateway.http.common.chat_messages import Messages, template_message
from pomona_gateway.http.common.prepare_chat import Effort, open_dialogue
from pomona_gateway.http.common.run_request import answer, gateway_of, receive
from pomona_gateway.http.common.sampling_parameters import MAY_END, Label, SamplingParameters
from pomona_gateway.http.common.structured_output import ResponseFormat, format_shape
from pomona_gateway.http.common.tools import (
    CHOICE_NEEDS_TOOLS,
    ToolChoice,
    ToolDefinitions,
    chosen_tools,
)
from pomona_gateway.http.openai.objects import answer_head, usage_object
from pomona_gateway.http.request_body import Rule, either, given, unless
from pomona_gateway.parsers import ReasoningDelta, TextDelta
from pomona_gateway.text import Tokenizer


class ChatRequest(SamplingParameters):
    """A chat completion request."""

    messages: Messages
    max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Most tokens of the reply. Default: what is left of the context."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """The newer name of ``max_tokens``; of two limits the lower one holds."""
    logprobs: bool | None = None
    """Report the log-probability of each token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Report also this many of the likeliest tokens at each place. Needs ``logprobs``."""
    response_format: ResponseFormat | None = None
    """Text, a JSON object, or JSON that matches a schema."""
    tools: ToolDefinitions | None = None
    """Functions the model may call."""
    tool_choice: ToolChoice | None = None
    """``none``, ``auto``, ``required`` or one function, which is then called."""
    parallel_tool_calls: bool | None = None
    """Whether a reply may have more than one call. Default true."""
    reasoning_effort: Effort | None = None
    """How much the model reasons, if its chat template has a place for that."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template."""
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] | None = None
    """Labels; they change nothing."""
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    store: Literal[False] | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    service_tier: Literal["auto", "default"] | None = None

    rules = (
        *SamplingParameters.rules,
        Rule(
            ("top_logprobs",),
            lambda body: not body.top_logprobs or bool(body.logprobs),
            either(unless("top_logprobs", {"enum": [None, 0]}), given("logprobs", {"const": True})),
            "it needs logprobs: true",
        ),
        Rule(
            ("structured_outputs",),
            lambda body: (
                body.structured_outputs is None
                or body.response_format is None
                or body.response_format.type == "text"
            ),
            either(
                unless("structured_outputs", {"type": "null"}),
                unless("response_format", {"type": "null"}),
                unless("response_format", unless("type", {"const": "text"})),
            ),
            "response_format shapes the reply too; give one of them",
        ),
        Rule(
            ("response_format",),
            lambda body: (
                body.response_format is None
                or body.response_format.type == "text"
                or body.may_end()
            ),
            either(
                unless("response_format", {"type": "null"}),
                unless("response_format", unless("type", {"const": "text"})),
                MAY_END,
            ),
            "a reply that must match ends where that ends; leave out ignore_eos and min_tokens",
        ),
        CHOICE_NEEDS_TOOLS,
    )

    def limit(self) -> int | None:
        given = [x for x in (self.max_tokens, self.max_completion_tokens) if x is not None]
        return min(given, default=None)

    def shape(self) -> Shape | None:
        """What the reply's text must match."""
        if self.structured_outputs is None:
            return format_shape(self.response_format, "response_format")
        return self.structured_outputs.shape()

    def chances(self) -> int | None:
        """How many likeliest tokens are reported; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


async def chat_completions(request: Request) -> Response | ASGIApp:
    """Answer one chat request, streamed or whole."""
    chat = await receive(request, ChatRequest)
    dialogue = await translate(gateway_of(request), chat)
    return await answer(request, dialogue.completion, ChatWriter(chat, dialogue), bool(chat.stream))


async def translate(gateway: Gateway, chat: ChatRequest) -> ChatCompletion:
    """The dialect's request as the gateway's own."""
    messages = [template_message(message) for message in chat.messages]
    return await open_dialogue(
        gateway,
        chat,
        messages,
        chosen_tools(chat.tools, chat.tool_choice, chat.parallel_tool_calls),
        shape=chat.shape(),
        max_tokens=chat.limit(),
        logprobs=chat.chances(),
        effort=chat.reasoning_effort,
        variables=chat.chat_template_kwargs or {},
    )


class ChatWriter:
    """Writes replies as chat completion objects, whole or in chunks."""

    media_type = sse.MEDIA_TYPE

    def __init__(self, chat: ChatRequest, dialogue: ChatCompletion) -> None:
        self._chat = chat
        self._dialogue = dialogue
        self._tokenizer = dialogue.completion.language.tokenizer
        kind = "chat.completion.chunk" if chat.stream else "chat.completion"
        self._head = answer_head(kind, "chatcmpl", dialogue.completion)

    def failure(self, error: RequestError) -> bytes:
        return sse.openai_failure(error)

    async def whole(self, replies: GenerationStream, pause_s: float) -> dict[str, Any]:
        """One object with every reply."""
        read = ChatStream(self._dialogue, replies)
        choices = [
            {
                "index": index,
                "message": message_object(reply),
                "logprobs": self._logprobs(reply.logprobs),
                "finish_reason": reply.finish,
            }
            for index, reply in enumerate(await read.collect(pause_s))
        ]
        usage = usage_object(replies.usage, read.reasoning_tokens)
        return {**self._head, "choices": choices, "usage": usage}

    async def stream(self, replies: GenerationStream, pause_s: float) -> AsyncGenerator[bytes]:
        """Chunks as events, and comments while there is no text."""
        options = self._chat.stream_options
        counted = options is not None and options.include_usage
        head = {**self._head, "usage": None} if counted else self._head
        begun: set[int] = set()
        read = ChatStream(self._dialogue, replies)
        yield sse.comment("accepted")
        async with aclosing(read.deltas(pause_s)) as turns:
            async for turn in turns:
                if isinstance(turn, PromptProgress):
                    yield sse.comment(str(turn))
                    continue
                if turn.index not in begun:
                    begun.add(turn.index)
                    first = self._choice(turn.index, {"role": "assistant", "content": ""})
                    yield sse.data({**head, "choices": [first]})
                for choice in self._choices(turn):
                    yield sse.data({**head, "choices": [choice]})
        if counted:
            usage = usage_object(replies.usage, read.reasoning_tokens)
            yield sse.data({**head, "choices": [], "usage": usage})
        yield sse.DONE

    def _choices(self, turn: ChatDelta) -> Iterator[dict[str, Any]]:
        chances = turn.logprobs
        deltas = [delta_object(part) for part in turn.parts]
        for delta in deltas or ([{"content": ""}] if chances else []):
            yield self._choice(turn.index, delta, chances)
            chances = ()
        if turn.finish is not None:
            yield self._choice(turn.index, {}, finish=turn.finish)

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        chances: Sequence[TokenLogprob] = (),
        finish: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(chances) if chances else None,
            "finish_reason": finish,
        }

    def _logprobs(self, chances: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._chat.logprobs:
            return None
        return {
            "content": [
                {
                    **token_object(self._tokenizer, chance.token, chance.logprob),
                    "top_logprobs": [
                        token_object(self._tokenizer, token, logprob)
                        for token, logprob in chance.top
                    ],
                }
                for chance in chances
            ],
            "refusal": None,
        }


def message_object(reply: ChatReply) -> dict[str, Any]:
    """OpenAI's assistant message."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [call_object(call) for call in reply.calls]
    return message


def delta_object(part: ChatPart) -> dict[str, Any]:
    match part:
        case TextDelta(text=text):
            return {"content": text}
        case ReasoningDelta(text=text):
            return {"reasoning_content": text}
        case ToolCallDelta(first=True):
            whole = call_object(ToolCall(part.id, part.index, part.name, part.arguments))
            return {"tool_calls": [{"index": part.index, **whole}]}
        case ToolCallDelta():
            piece = {"index": part.index, "function": {"arguments": part.arguments}}
            return {"tool_calls": [piece]}


def call_object(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def token_object(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token)
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}
