"""``POST /v1/chat/completions`` (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona import __version__
from pomona.errors import RequestError
from pomona_gateway.api import sse
from pomona_gateway.api.body import Body, parse_body, read_body
from pomona_gateway.api.json_response import JsonResponse
from pomona_gateway.api.messages import Messages, template_message
from pomona_gateway.api.parameters import Label, SamplingParameters, sampling
from pomona_gateway.api.respond import StreamAnswer, while_connected
from pomona_gateway.completion import Completion, Replies, Usage, Waiting
from pomona_gateway.gateway import Gateway
from pomona_gateway.reply_text import TokenChance
from pomona_gateway.tokenizer import LanguageModel, Tokenizer
from pomona_gateway.tokenizer.chat_template import RESERVED

SETTLE_S = 0.25
"""A stream begins at the latest after this, so that a refusal before it has its status."""
LONG_TEXT = 20_000
"""Characters from which a prompt is tokenised in a thread."""
FINGERPRINT = f"pomona-{__version__}"


class ResponseFormat(Body):
    type: Literal["text"]


class ChatRequest(SamplingParameters):
    """A chat completion request."""

    messages: Messages
    max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Most tokens of the reply. Default: what is left of the context."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """The newer name of ``max_tokens``."""
    logprobs: bool | None = None
    """Report the log-probability of each token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Report also this many of the likeliest tokens at each place. Needs ``logprobs``."""
    response_format: ResponseFormat | None = None
    """Only plain text yet."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template."""
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] | None = None
    """Labels; they change nothing."""
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    store: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None

    def limit(self) -> int | None:
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise RequestError(
                400,
                "invalid_value",
                "max_tokens and max_completion_tokens mean the same; give one",
                "max_tokens",
            )
        return self.max_completion_tokens or self.max_tokens

    def chances(self) -> int | None:
        """How many likeliest tokens are reported; None for no log-probabilities."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError(
                400, "invalid_value", "top_logprobs needs logprobs: true", "top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None


@dataclass(slots=True)
class Written:
    """One whole reply as it grows."""

    text: list[str] = field(default_factory=list[str])
    chances: list[TokenChance] = field(default_factory=list[TokenChance])
    finish: str | None = None


async def chat_completions(request: Request) -> Response | ASGIApp:
    """Answer one chat request, streamed or whole."""
    gateway: Gateway = request.app.state.gateway
    settings = gateway.settings
    raw = await read_body(request, settings.max_body_bytes, settings.body_deadline_s)
    chat = parse_body(ChatRequest, raw)
    chat.check_stream_options()
    completion = await translate(gateway, chat)
    replies = Replies(gateway.engine, gateway.metrics, completion)
    writer = ChatWriter(chat, completion)
    if not chat.stream:
        try:
            whole = writer.whole(replies, settings.keep_alive_s)
            return JsonResponse(await while_connected(request.receive, whole))
        finally:
            replies.close()
    try:
        await while_connected(request.receive, replies.settle(SETTLE_S))
    except BaseException:
        replies.close()
        raise
    chunks = writer.stream(replies, settings.keep_alive_s)
    return StreamAnswer(chunks, sse.openai_failure, sse.MEDIA_TYPE, settings.stall_deadline_s)


async def translate(gateway: Gateway, chat: ChatRequest) -> Completion:
    """The dialect's request as the gateway's own."""
    name, language = gateway.catalogue.find(chat.model)
    limit, chances = chat.limit(), chat.chances()
    prompt = await chat_prompt(
        language,
        [template_message(message, n) for n, message in enumerate(chat.messages)],
        chat.chat_template_kwargs or {},
    )
    return Completion(
        model=name,
        language=language,
        prompt=prompt,
        sampling=sampling(chat, language, len(prompt), limit, chances),
        stops=chat.stops(),
        count=chat.n or 1,
    )


async def chat_prompt(
    language: LanguageModel, messages: Sequence[dict[str, Any]], variables: dict[str, Any]
) -> array[int]:
    """The ids of a conversation, up to where the model answers."""
    template = language.templates.get("default")
    if template is None:
        raise RequestError(
            400,
            "no_chat_template",
            "this model has no chat template, so it cannot chat; use /v1/completions",
            "model",
        )
    reserved = RESERVED & variables.keys()
    if reserved:
        name = f"chat_template_kwargs.{min(reserved)}"
        raise RequestError(400, "invalid_value", f"{name!r} cannot be set", name)
    size = sum(len(str(message["content"])) for message in messages)

    def encode() -> array[int]:
        text = template.render(messages, **variables)
        return language.tokenizer.encode(text, chat=True)

    return await asyncio.to_thread(encode) if size > LONG_TEXT else encode()


class ChatWriter:
    """Writes replies as chat completion objects, whole or in chunks."""

    def __init__(self, chat: ChatRequest, completion: Completion) -> None:
        self._chat = chat
        self._tokenizer = completion.language.tokenizer
        self._count = completion.count
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": completion.model,
            "system_fingerprint": FINGERPRINT,
        }

    async def whole(self, replies: Replies, pause_s: float) -> dict[str, Any]:
        """One object with every reply."""
        written = [Written() for _ in range(self._count)]
        async with aclosing(replies.events(pause_s)) as events:
            async for event in events:
                if isinstance(event, Waiting):
                    continue
                index, piece = event
                reply = written[index]
                reply.text.append(piece.text)
                reply.chances += piece.chances
                reply.finish = piece.finish
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(reply.text), "refusal": None},
                "logprobs": self._logprobs(reply.chances),
                "finish_reason": reply.finish,
            }
            for index, reply in enumerate(written)
        ]
        return {**self._head, "choices": choices, "usage": usage_object(replies.usage)}

    async def stream(self, replies: Replies, pause_s: float) -> AsyncGenerator[bytes]:
        """Chunks as events, and comments while there is no text."""
        head = {**self._head, "object": "chat.completion.chunk"}
        options = self._chat.stream_options
        counted = options is not None and options.include_usage
        tail: dict[str, Any] = {"usage": None} if counted else {}
        begun: set[int] = set()
        try:
            yield sse.comment("accepted")
            async with aclosing(replies.events(pause_s)) as events:
                async for event in events:
                    if isinstance(event, Waiting):
                        yield sse.comment(f"prompt {event.prefilled}/{event.total}")
                        continue
                    index, piece = event
                    if index not in begun:
                        begun.add(index)
                        choice = self._delta(index, {"role": "assistant", "content": ""})
                        yield sse.data({**head, "choices": [choice], **tail})
                    if piece.text or piece.chances:
                        choice = self._delta(index, {"content": piece.text}, piece.chances)
                        yield sse.data({**head, "choices": [choice], **tail})
                    if piece.finish is not None:
                        choice = self._delta(index, {}, finish=piece.finish)
                        yield sse.data({**head, "choices": [choice], **tail})
            if counted:
                yield sse.data({**head, "choices": [], "usage": usage_object(replies.usage)})
            yield sse.DONE
        finally:
            replies.close()

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        chances: Sequence[TokenChance] = (),
        finish: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(chances) if chances else None,
            "finish_reason": finish,
        }

    def _logprobs(self, chances: Sequence[TokenChance]) -> dict[str, Any] | None:
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


def token_object(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token)
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.reply,
        "total_tokens": usage.prompt + usage.reply,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }
