"""Ollama's ``/api/chat`` and ``/api/generate``
(https://github.com/ollama/ollama/blob/main/docs/api.md)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.chat import (
    ChatCompletion,
    ChatDelta,
    ChatReply,
    ChatStream,
    ToolCallDelta,
    Tools,
)
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.generation.completion import Completion
from pomona_gateway.generation.detokenizer import TokenLogprob
from pomona_gateway.http.common.chat_messages import continues_last
from pomona_gateway.http.common.constrain_reply import constrain_text
from pomona_gateway.http.common.prepare_chat import default_limit, prepare_chat
from pomona_gateway.http.common.run_request import gateway_of, read_request, run_request
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, build_sampling
from pomona_gateway.http.common.tools import openai_tools
from pomona_gateway.http.ignored import IgnoredParameters, ignored_of
from pomona_gateway.http.ollama.chat_request import OllamaChat, OllamaGenerate
from pomona_gateway.http.ollama.models import timestamp
from pomona_gateway.http.openai.chat import token_object
from pomona_gateway.http.respond import JsonResponse, encode_json
from pomona_gateway.parsers import ReplyNotation
from pomona_gateway.text import LanguageModel

MEDIA_TYPE = "application/x-ndjson"


async def chat(request: Request) -> Response | ASGIApp:
    """Answers a chat; without messages, reports that the model is loaded."""
    body = await read_request(request, OllamaChat)
    gateway, ignored = gateway_of(request), ignored_of(request)
    name, language = gateway.models.find(body.model)
    body.note_context(language.context_length, ignored)
    conversation = body.conversation(ignored)
    if not conversation:
        return _loaded_response(name, {"message": {"role": "assistant", "content": ""}})
    chat = await prepare_chat(
        gateway,
        body.parameters(name, language.facts.sampling),
        conversation,
        openai_tools(body.tools, None, None),
        max_tokens=body.max_reply_tokens(),
        ignored=ignored,
        shape=body.shape(),
        top_logprobs=body.reported_logprobs(),
        wish=body.wish(),
        continue_final=continues_last(conversation),
    )
    return await run_request(request, chat.completion, LineWriter(chat, "chat"), body.is_streamed)


async def generate(request: Request) -> Response | ASGIApp:
    """Answers one prompt; without a prompt, reports that the model is loaded."""
    body = await read_request(request, OllamaGenerate)
    gateway, ignored = gateway_of(request), ignored_of(request)
    name, language = gateway.models.find(body.model)
    body.note_context(language.context_length, ignored)
    body.check_support(ignored)
    if not body.prompt:
        return _loaded_response(name, {"response": ""})
    parameters = body.parameters(name, language.facts.sampling)
    if body.raw:
        chat = await _prepare_raw(gateway, language, parameters, body, ignored)
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        chat = await prepare_chat(
            gateway,
            parameters,
            [*system, {"role": "user", "content": body.prompt}],
            Tools(),
            max_tokens=body.max_reply_tokens(),
            ignored=ignored,
            shape=body.shape(),
            top_logprobs=body.reported_logprobs(),
            wish=body.wish(),
            prompt_parameter="prompt",
        )
    writer = LineWriter(chat, "generate")
    return await run_request(request, chat.completion, writer, body.is_streamed)


async def _prepare_raw(
    gateway: Gateway,
    language: LanguageModel,
    parameters: SamplingParameters,
    body: OllamaGenerate,
    ignored: IgnoredParameters,
) -> ChatCompletion:
    """Prepares a prompt that is used without the chat template."""
    text = body.prompt or ""
    prompt = await language.prompter.encode(text, limit=language.text_limit("prompt"))
    room = language.context_length - len(prompt)
    limit = body.max_reply_tokens() or default_limit(gateway, room, ignored)
    sampling = build_sampling(parameters, language, len(prompt), limit, body.reported_logprobs())
    sampling = await constrain_text(gateway, language, parameters, sampling, body.shape(), ignored)
    completion = Completion(
        parameters.model, language, (prompt,), sampling, parameters.stop_strings()
    )
    return ChatCompletion(completion, text, ReplyNotation(), Tools())


def _loaded_response(model: str, content: dict[str, Any]) -> Response:
    head = {"model": model, "created_at": timestamp(time.time())}
    return JsonResponse({**head, **content, "done": True, "done_reason": "load"})


class LineWriter:
    """Writes a reply as Ollama's objects, one JSON object a line."""

    media_type = MEDIA_TYPE

    def __init__(self, chat: ChatCompletion, endpoint: Literal["chat", "generate"]) -> None:
        self._chat = chat
        self._endpoint = endpoint
        self._started = time.monotonic()

    async def whole(self, stream: GenerationStream, keep_alive_s: float) -> dict[str, Any]:
        """Returns one object with the whole reply."""
        [reply] = await ChatStream(self._chat, stream).collect(keep_alive_s)
        final = self._final_fields(stream, reply.finish)
        return {**self._object(reply), **final, **self._logprobs(reply.logprobs)}

    async def chunks(self, stream: GenerationStream, keep_alive_s: float) -> AsyncGenerator[bytes]:
        """Yields a line for each part of the reply, and for each complete tool call."""
        call = ChatReply()
        async with aclosing(ChatStream(self._chat, stream).deltas(keep_alive_s)) as turns:
            async for turn in turns:
                if isinstance(turn, PromptProgress):
                    continue
                logprobs = self._logprobs(turn.logprobs)
                for part in turn.parts:
                    reply = ChatReply()
                    if isinstance(part, ToolCallDelta):
                        # Ollama's clients read complete calls only.
                        call.add(ChatDelta(0, (part,)))
                        if not part.last:
                            continue
                        reply, call = call, ChatReply()
                    else:
                        reply.add(ChatDelta(0, (part,)))
                    yield _encode_line({**self._object(reply), "done": False, **logprobs})
                    logprobs = {}
                if turn.finish is not None:
                    final = self._final_fields(stream, turn.finish)
                    yield _encode_line({**self._object(call), **final, **logprobs})
                elif logprobs:
                    yield _encode_line({**self._object(ChatReply()), "done": False, **logprobs})

    def keep_alive_chunk(self) -> bytes:
        """Encodes a line without text; its clients read no comments."""
        return _encode_line({**self._object(ChatReply()), "done": False})

    def error_chunk(self, error: RequestError) -> bytes:
        """Encodes an error as a line."""
        return _encode_line({"error": error.message})

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Returns the field with the logprobs of tokens; none without logprobs."""
        if not logprobs:
            return {}
        tokenizer = self._chat.completion.language.tokenizer
        return {
            "logprobs": [
                {
                    **token_object(tokenizer, sampled.token, sampled.logprob),
                    "top_logprobs": [
                        token_object(tokenizer, token, logprob) for token, logprob in sampled.top
                    ],
                }
                for sampled in logprobs
            ]
        }

    def _object(self, reply: ChatReply) -> dict[str, Any]:
        head = {
            "model": self._chat.completion.model,
            "created_at": timestamp(time.time()),
        }
        thinking = {"thinking": reply.reasoning} if reply.reasoning else {}
        if self._endpoint == "generate":
            return {**head, "response": reply.text, **thinking}
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, **thinking}
        if reply.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "function": {
                        "index": call.index,
                        "name": call.name,
                        "arguments": call.input,
                    },
                }
                for call in reply.calls
            ]
        return {**head, "message": message}

    def _final_fields(self, stream: GenerationStream, finish: str | None) -> dict[str, Any]:
        """Returns the counts and durations of the last object; durations in nanoseconds."""
        usage, timing = stream.usage, stream.timing
        now = time.monotonic()
        first_token = timing.first or now
        prefill_start = timing.started or first_token
        return {
            "done": True,
            "done_reason": "length" if finish == "length" else "stop",
            "total_duration": int((now - self._started) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": int((first_token - prefill_start) * 1e9),
            "eval_count": usage.reply,
            "eval_duration": int((now - first_token) * 1e9),
        }


def _encode_line(content: dict[str, Any]) -> bytes:
    return encode_json(content) + b"\n"
