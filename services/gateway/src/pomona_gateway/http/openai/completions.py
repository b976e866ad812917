"""``POST /v1/completions`` (https://platform.openai.com/docs/api-reference/completions)."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, cast

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.generation.completion import Completion
from pomona_gateway.generation.detokenizer import ReplyDelta, TokenLogprob
from pomona_gateway.http import sse
from pomona_gateway.http.common.prepare_chat import shaped
from pomona_gateway.http.common.run_request import answer, gateway_of, receive
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, TokenId, sampling
from pomona_gateway.http.openai.echo import Echo
from pomona_gateway.http.openai.objects import answer_head, usage_object
from pomona_gateway.text import LanguageModel

DEFAULT_MAX_TOKENS = 16
"""As OpenAI has it."""
MAX_PROMPTS = 128

Text = Annotated[str, StringConstraints(min_length=1)]
Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
Ids = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Rows = Annotated[list[Ids], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
Prompt = Text | Texts | Ids | Rows


class CompletionRequest(SamplingParameters):
    """A text completion request."""

    prompt: Prompt
    """One text or several, each perhaps as token ids. Each gets ``n`` replies."""
    max_tokens: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Most tokens of the reply. Default 16."""
    logprobs: int | None = Field(default=None, ge=0, le=5)
    """Report each token's log-probability, and this many of the likeliest ones."""
    echo: bool | None = None
    """Begin the reply with the prompt, whose tokens ``logprobs`` reports too."""
    best_of: Literal[1] | None = None
    suffix: None = None


async def completions(request: Request) -> Response | ASGIApp:
    """Answer one completion request, streamed or whole."""
    asked = await receive(request, CompletionRequest)
    completion, prompts = await translate(gateway_of(request), asked)
    writer = CompletionWriter(asked, completion, prompts)
    return await answer(request, completion, writer, bool(asked.stream))


async def translate(
    gateway: Gateway, asked: CompletionRequest
) -> tuple[Completion, tuple[str, ...]]:
    """The dialect's request as the gateway's own, and the prompts as text."""
    name, language = gateway.models.find(asked.model)
    texts, prompts = await read_prompts(asked.prompt, language, "prompt")
    limit = DEFAULT_MAX_TOKENS if asked.max_tokens is None else max(asked.max_tokens, 1)
    scored = asked.logprobs if asked.echo else None
    longest = max(len(prompt) for prompt in prompts)
    shape = asked.structured_outputs.shape() if asked.structured_outputs else None
    drawn = sampling(asked, language, longest, limit, asked.logprobs)
    drawn = await shaped(gateway, language, asked, drawn, shape)
    completion = Completion(
        model=name,
        language=language,
        prompts=prompts,
        sampling=replace(drawn, max_tokens=limit, prompt_logprobs=scored),
        stops=asked.stops(),
        n=asked.n or 1,
        prompt_only=asked.max_tokens == 0,
    )
    return completion, texts


async def read_prompts(
    given: Prompt, language: LanguageModel, parameter: str
) -> tuple[tuple[str, ...], tuple[array[int], ...]]:
    """Each prompt as text and as ids. Raises RequestError naming the parameter."""
    texts, prompts = await _read(given, language, parameter)
    if not all(prompts):
        message = f"invalid '{parameter}': it has no tokens"
        raise RequestError(400, "invalid_value", message, parameter)
    return texts, prompts


async def _read(
    given: Prompt, language: LanguageModel, parameter: str
) -> tuple[tuple[str, ...], tuple[array[int], ...]]:
    if isinstance(given, str):
        texts = (given,)
        return texts, (await language.prompter.encode(given),)
    if isinstance(given[0], str):
        texts = tuple(str(x) for x in given)
        return texts, tuple([await language.prompter.encode(text) for text in texts])
    rows = given if isinstance(given[0], list) else [given]
    prompts = tuple(array("i", cast("list[int]", row)) for row in rows)
    size = language.facts.vocab_size
    if max(max(prompt) for prompt in prompts) >= size:
        message = f"invalid '{parameter}': this model has only {size} tokens"
        raise RequestError(400, "invalid_value", message, parameter)
    decode = language.tokenizer.decode
    return tuple(decode(prompt, skip_special=False) for prompt in prompts), prompts


@dataclass(slots=True)
class Written:
    """One whole reply as it grows."""

    text: list[str] = field(default_factory=list[str])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finish: str | None = None

    def add(self, piece: ReplyDelta) -> None:
        self.text.append(piece.text)
        self.logprobs += piece.logprobs
        self.finish = piece.finish


class CompletionWriter:
    """Writes replies as text completion objects. ``texts``: the prompts, for ``echo``."""

    media_type = sse.MEDIA_TYPE

    def __init__(
        self, asked: CompletionRequest, completion: Completion, texts: Sequence[str]
    ) -> None:
        self._asked = asked
        self._tokenizer = completion.language.tokenizer
        self._count = completion.choice_count
        self._echoes = [
            Echo(self._tokenizer, prompt, text, asked.logprobs is not None)
            for prompt, text in zip(completion.prompts, texts, strict=True)
            for _ in range(completion.n if asked.echo else 0)
        ]
        self._head = answer_head("text_completion", "cmpl", completion)

    def failure(self, error: RequestError) -> bytes:
        return sse.openai_failure(error)

    async def whole(self, replies: GenerationStream, pause_s: float) -> dict[str, Any]:
        written = [Written() for _ in range(self._count)]
        for index, echo in enumerate(self._echoes):
            written[index].add(echo.begin())
        async with aclosing(replies.events(pause_s)) as events:
            async for event in events:
                if isinstance(event, PromptProgress):
                    continue
                index, piece = event
                written[index].add(self._placed(index, piece))
        choices = [
            self._choice(index, "".join(x.text), x.logprobs, x.finish)
            for index, x in enumerate(written)
        ]
        return {**self._head, "choices": choices, "usage": usage_object(replies.usage)}

    async def stream(self, replies: GenerationStream, pause_s: float) -> AsyncGenerator[bytes]:
        options = self._asked.stream_options
        counted = options is not None and options.include_usage
        head = {**self._head, "usage": None} if counted else self._head
        yield sse.comment("accepted")
        for index, echo in enumerate(self._echoes):
            piece = echo.begin()
            choice = self._choice(index, piece.text, piece.logprobs, None)
            yield sse.data({**head, "choices": [choice]})
        async with aclosing(replies.events(pause_s)) as events:
            async for event in events:
                if isinstance(event, PromptProgress):
                    yield sse.comment(str(event))
                    continue
                index, piece = event
                piece = self._placed(index, piece)
                choice = self._choice(index, piece.text, piece.logprobs, piece.finish)
                yield sse.data({**head, "choices": [choice]})
        if counted:
            yield sse.data({**head, "choices": [], "usage": usage_object(replies.usage)})
        yield sse.DONE

    def _placed(self, index: int, piece: ReplyDelta) -> ReplyDelta:
        """A part of a reply as it stands in the whole text."""
        if not self._echoes:
            return piece
        echo = self._echoes[index]
        prompt = piece.prompt_logprobs
        return echo.shifted(piece) if prompt is None else echo.take(prompt)

    def _choice(
        self, index: int, text: str, chances: Sequence[TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(chances),
            "finish_reason": finish,
        }

    def _logprobs(self, chances: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self._asked.logprobs is None:
            return None
        name = self._tokenizer.token_text
        return {
            "tokens": [name(x.token) for x in chances],
            "token_logprobs": [x.logprob for x in chances],
            "top_logprobs": [self._alternatives(x) for x in chances],
            "text_offset": [x.offset for x in chances],
        }

    def _alternatives(self, chance: TokenLogprob) -> dict[str, float] | None:
        """The likeliest tokens, and always the one that stands there. Of tokens that look
        the same the likeliest is named."""
        if chance.logprob is None:
            return None
        named: dict[str, float] = {}
        for token, logprob in (*chance.top, (chance.token, chance.logprob)):
            named.setdefault(self._tokenizer.token_text(token), logprob)
        return named
