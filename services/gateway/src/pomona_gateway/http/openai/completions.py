"""``POST /v1/completions`` (https://platform.openai.com/docs/api-reference/completions)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.generation.completion import Completion
from pomona_gateway.generation.detokenizer import ReplyDelta, TokenLogprob
from pomona_gateway.http import sse
from pomona_gateway.http.common.constrain_reply import constrain_text
from pomona_gateway.http.common.run_request import gateway_of, read_request, run_request
from pomona_gateway.http.common.sampling_parameters import build_sampling
from pomona_gateway.http.ignored import IgnoredParameters, ignored_of
from pomona_gateway.http.openai.completions_request import CompletionRequest, read_prompts
from pomona_gateway.http.openai.echo import Echo
from pomona_gateway.http.openai.objects import error_chunk, response_head, usage_object

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default."""


async def completions(request: Request) -> Response | ASGIApp:
    """Completes texts, whole or streamed."""
    body = await read_request(request, CompletionRequest)
    completion, texts = await _prepare(gateway_of(request), body, ignored_of(request))
    writer = CompletionWriter(body, completion, texts)
    return await run_request(request, completion, writer, bool(body.stream))


async def _prepare(
    gateway: Gateway, body: CompletionRequest, ignored: IgnoredParameters
) -> tuple[Completion, tuple[str, ...]]:
    """Returns the completion, and its prompts as text."""
    name, language = gateway.models.find(body.model)
    texts, prompts = await read_prompts(body.prompt, language, "prompt")
    limit = DEFAULT_MAX_TOKENS if body.max_tokens in (None, -1) else body.max_tokens
    max_tokens = max(limit or 0, 1)
    longest = max(len(prompt) for prompt in prompts)
    shape = body.text_shape()
    sampling = build_sampling(body, language, longest, max_tokens, body.logprobs)
    sampling = await constrain_text(gateway, language, body, sampling, shape, ignored)
    prompt_logprobs = body.logprobs if body.echo else None
    completion = Completion(
        model=name,
        language=language,
        prompts=prompts,
        sampling=replace(sampling, max_tokens=max_tokens, prompt_logprobs=prompt_logprobs),
        stops=body.stop_strings(),
        n=body.n or 1,
        prompt_only=body.max_tokens == 0,
        speculative=body.speculative is not False,
    )
    return completion, texts


@dataclass(slots=True)
class WholeText:
    """The text of one reply, collected from its pieces."""

    text: list[str] = field(default_factory=list[str])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finish: str | None = None

    def add(self, piece: ReplyDelta) -> None:
        """Appends a piece."""
        self.text.append(piece.text)
        self.logprobs += piece.logprobs
        self.finish = piece.finish


class CompletionWriter:
    """Writes replies as text completion objects.

    Args:
        texts: the prompts as text, for ``echo``.
    """

    media_type = sse.MEDIA_TYPE

    def __init__(
        self, body: CompletionRequest, completion: Completion, texts: Sequence[str]
    ) -> None:
        self._body = body
        self._tokenizer = completion.language.tokenizer
        self._count = completion.choice_count
        self._echoes = [
            Echo(self._tokenizer, prompt, text, body.logprobs is not None)
            for prompt, text in zip(completion.prompts, texts, strict=True)
            for _ in range(completion.n if body.echo else 0)
        ]
        self._head = response_head("text_completion", "cmpl", completion)

    async def whole(self, stream: GenerationStream, keep_alive_s: float) -> dict[str, Any]:
        """Returns one object with every reply."""
        replies = [WholeText() for _ in range(self._count)]
        for index, echo in enumerate(self._echoes):
            replies[index].add(echo.first_piece())
        async with aclosing(stream.events(keep_alive_s)) as events:
            async for event in events:
                if isinstance(event, PromptProgress):
                    continue
                index, piece = event
                replies[index].add(self._with_echo(index, piece))
        choices = [
            self._choice(index, "".join(reply.text), reply.logprobs, reply.finish)
            for index, reply in enumerate(replies)
        ]
        return {**self._head, "choices": choices, "usage": usage_object(stream.usage)}

    async def chunks(self, stream: GenerationStream, keep_alive_s: float) -> AsyncGenerator[bytes]:
        """Yields chunks as events, and comments while there is no text."""
        options = self._body.stream_options
        with_usage = options is not None and bool(options.include_usage)
        head = {**self._head, "usage": None} if with_usage else self._head
        yield sse.comment("accepted")
        for index, echo in enumerate(self._echoes):
            piece = echo.first_piece()
            choice = self._choice(index, piece.text, piece.logprobs, None)
            yield sse.data({**head, "choices": [choice]})
        async with aclosing(stream.events(keep_alive_s)) as events:
            async for event in events:
                if isinstance(event, PromptProgress):
                    yield sse.comment(str(event))
                    continue
                index, piece = event
                piece = self._with_echo(index, piece)
                choice = self._choice(index, piece.text, piece.logprobs, piece.finish)
                yield sse.data({**head, "choices": [choice]})
        if with_usage:
            yield sse.data({**head, "choices": [], "usage": usage_object(stream.usage)})
        yield sse.DONE

    def keep_alive_chunk(self) -> bytes:
        """Encodes a comment."""
        return sse.WORKING

    def error_chunk(self, error: RequestError) -> bytes:
        """Encodes an error and the end of the stream."""
        return error_chunk(error)

    def _with_echo(self, index: int, piece: ReplyDelta) -> ReplyDelta:
        """Converts a piece to its place after, or in, the echoed prompt."""
        if not self._echoes:
            return piece
        echo = self._echoes[index]
        if piece.prompt_logprobs is None:
            return echo.after_prompt(piece)
        return echo.next_piece(piece.prompt_logprobs)

    def _choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs_object(logprobs),
            "finish_reason": finish,
        }

    def _logprobs_object(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        text_of = self._tokenizer.token_text
        return {
            "tokens": [text_of(x.token) for x in logprobs],
            "token_logprobs": [x.logprob for x in logprobs],
            "top_logprobs": [self._top_logprobs(x) for x in logprobs],
            "text_offset": [x.offset for x in logprobs],
        }

    def _top_logprobs(self, sampled: TokenLogprob) -> dict[str, float] | None:
        """Returns the logprobs of the most likely tokens and of the sampled one, by text.

        Of tokens with the same text the most likely one counts.
        """
        if sampled.logprob is None:
            return None
        by_text: dict[str, float] = {}
        for token, logprob in (*sampled.top, (sampled.token, sampled.logprob)):
            by_text.setdefault(self._tokenizer.token_text(token), logprob)
        return by_text
