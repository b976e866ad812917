"""``POST /v1/chat/completions`` (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.api import sse
from pomona_gateway.api.answering import answer, gateway_of, receive
from pomona_gateway.api.body import Body
from pomona_gateway.api.messages import Messages, template_message
from pomona_gateway.api.openai_objects import answer_head, usage_object
from pomona_gateway.api.parameters import Label, SamplingParameters, sampling
from pomona_gateway.completion import Completion, Replies, Waiting
from pomona_gateway.gateway import Gateway
from pomona_gateway.prompts import chat_prompt
from pomona_gateway.reply_text import TokenChance
from pomona_gateway.tokenizer import Tokenizer


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
    chat = await receive(request, ChatRequest)
    chat.check_stream_options()
    completion = await translate(gateway_of(request), chat)
    return await answer(request, completion, ChatWriter(chat, completion), bool(chat.stream))


async def translate(gateway: Gateway, chat: ChatRequest) -> Completion:
    """The dialect's request as the gateway's own."""
    name, language = gateway.catalogue.find(chat.model)
    limit, chances = chat.limit(), chat.chances()
    messages = [template_message(message, n) for n, message in enumerate(chat.messages)]
    _, prompt = await chat_prompt(language, messages, (), chat.chat_template_kwargs)
    return Completion(
        model=name,
        language=language,
        prompts=(prompt,),
        sampling=sampling(chat, language, len(prompt), limit, chances),
        stops=chat.stops(),
        count=chat.n or 1,
    )


class ChatWriter:
    """Writes replies as chat completion objects, whole or in chunks."""

    media_type = sse.MEDIA_TYPE

    def __init__(self, chat: ChatRequest, completion: Completion) -> None:
        self._chat = chat
        self._tokenizer = completion.language.tokenizer
        self._count = completion.replies
        kind = "chat.completion.chunk" if chat.stream else "chat.completion"
        self._head = answer_head(kind, "chatcmpl", completion)

    def failure(self, error: RequestError) -> bytes:
        return sse.openai_failure(error)

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
        options = self._chat.stream_options
        counted = options is not None and options.include_usage
        head = {**self._head, "usage": None} if counted else self._head
        begun: set[int] = set()
        yield sse.comment("accepted")
        async with aclosing(replies.events(pause_s)) as events:
            async for event in events:
                if isinstance(event, Waiting):
                    yield sse.comment(f"prompt {event.prefilled}/{event.total}")
                    continue
                index, piece = event
                if index not in begun:
                    begun.add(index)
                    role = {"role": "assistant", "content": ""}
                    yield sse.data({**head, "choices": [self._delta(index, role)]})
                if piece.text or piece.chances:
                    choice = self._delta(index, {"content": piece.text}, piece.chances)
                    yield sse.data({**head, "choices": [choice]})
                if piece.finish is not None:
                    choice = self._delta(index, {}, finish=piece.finish)
                    yield sse.data({**head, "choices": [choice]})
        if counted:
            yield sse.data({**head, "choices": [], "usage": usage_object(replies.usage)})
        yield sse.DONE

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
