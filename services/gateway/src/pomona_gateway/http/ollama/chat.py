"""``/api/chat`` and ``/api/generate``, as Ollama's clients speak them: one JSON object a
line."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.generation.chat import (
    CallPiece,
    ChatCompletion,
    DialogueReplies,
    Tools,
    Turn,
    WholeReply,
)
from pomona_gateway.generation.completion import Completion, GenerationStream, Waiting
from pomona_gateway.http.common.prepare_chat import open_dialogue, shaped
from pomona_gateway.http.common.run_request import answer, gateway_of, receive
from pomona_gateway.http.common.sampling_parameters import sampling
from pomona_gateway.http.common.tools import chosen_tools
from pomona_gateway.http.json_response import JsonResponse
from pomona_gateway.http.ollama.chat_request import OllamaChat, OllamaGenerate, OllamaRequest
from pomona_gateway.http.ollama.models import find, timestamp
from pomona_gateway.parsers import ReplyNotation
from pomona_gateway.text import LanguageModel

MEDIA_TYPE = "application/x-ndjson"


async def chat(request: Request) -> Response | ASGIApp:
    """Answer one chat; without messages, say that the model is loaded."""
    asked = await receive(request, OllamaChat)
    name, language = find(gateway_of(request), asked.model)
    asked.check_context(language.context_length)
    if not asked.messages:
        return _loaded(name, {"message": {"role": "assistant", "content": ""}})
    dialogue = await open_dialogue(
        gateway_of(request),
        asked.parameters(name, language.facts.sampling),
        [message.turn() for message in asked.messages],
        chosen_tools(asked.tools, None, None),
        shape=asked.shape(),
        max_tokens=asked.limit(),
        variables=_think(language, asked),
    )
    return await answer(request, dialogue.completion, LineWriter(dialogue, "chat"), asked.streams)


async def generate(request: Request) -> Response | ASGIApp:
    """Continue one prompt; without one, say that the model is loaded."""
    asked = await receive(request, OllamaGenerate)
    gateway = gateway_of(request)
    name, language = find(gateway, asked.model)
    asked.check_context(language.context_length)
    if not asked.prompt:
        return _loaded(name, {"response": ""})
    parameters = asked.parameters(name, language.facts.sampling)
    if asked.raw:
        prompt = await language.prompter.encode(asked.prompt)
        drawn = sampling(parameters, language, len(prompt), asked.limit(), None)
        drawn = await shaped(gateway, language, parameters, drawn, asked.shape())
        completion = Completion(name, language, (prompt,), drawn, parameters.stops())
        dialogue = ChatCompletion(completion, asked.prompt, ReplyNotation(), Tools())
    else:
        system = [{"role": "system", "content": asked.system}] if asked.system else []
        dialogue = await open_dialogue(
            gateway,
            parameters,
            [*system, {"role": "user", "content": asked.prompt}],
            Tools(),
            shape=asked.shape(),
            max_tokens=asked.limit(),
            variables=_think(language, asked),
        )
    writer = LineWriter(dialogue, "generate")
    return await answer(request, dialogue.completion, writer, asked.streams)


def _think(language: LanguageModel, asked: OllamaRequest) -> dict[str, Any]:
    """The template variables for reasoning. Raises RequestError when it has none."""
    if asked.think is None:
        return {}
    template = language.templates.get("default")
    source = template.source if template is not None else ""
    if isinstance(asked.think, str) and "reasoning_effort" in source:
        return {"reasoning_effort": asked.think}
    if "enable_thinking" in source:
        return {"enable_thinking": bool(asked.think)}
    if asked.think is False and not language.output.reasons:
        return {}
    message = "this model's chat template has no setting for how much it reasons"
    raise RequestError(400, "thinking_not_supported", message, "think")


def _loaded(model: str, content: dict[str, Any]) -> Response:
    head = {"model": model, "created_at": timestamp(time.time())}
    return JsonResponse({**head, **content, "done": True, "done_reason": "load"})


class LineWriter:
    """Writes a reply as Ollama's objects. ``kind``: chat or generate."""

    media_type = MEDIA_TYPE

    def __init__(self, dialogue: ChatCompletion, kind: str) -> None:
        self._dialogue = dialogue
        self._kind = kind
        self._begun = time.monotonic()

    def failure(self, error: RequestError) -> bytes:
        return orjson.dumps({"error": error.message}) + b"\n"

    async def whole(self, replies: GenerationStream, pause_s: float) -> dict[str, Any]:
        [reply] = await DialogueReplies(self._dialogue, replies).whole(pause_s)
        return {**self._object(reply), **self._end(replies, reply.finish)}

    async def stream(self, replies: GenerationStream, pause_s: float) -> AsyncGenerator[bytes]:
        calling = WholeReply()
        async with aclosing(DialogueReplies(self._dialogue, replies).turns(pause_s)) as turns:
            async for turn in turns:
                if isinstance(turn, Waiting):
                    continue
                for part in turn.parts:
                    reply = WholeReply()
                    if isinstance(part, CallPiece):
                        # Ollama has whole calls only.
                        calling.add(Turn(0, (part,)))
                        if not part.ends:
                            continue
                        reply, calling = calling, WholeReply()
                    else:
                        reply.add(Turn(0, (part,)))
                    yield orjson.dumps({**self._object(reply), "done": False}) + b"\n"
                if turn.finish is not None:
                    end = {**self._object(calling), **self._end(replies, turn.finish)}
                    yield orjson.dumps(end) + b"\n"

    def _object(self, reply: WholeReply) -> dict[str, Any]:
        head = {
            "model": self._dialogue.completion.model,
            "created_at": timestamp(time.time()),
        }
        thinking = {"thinking": reply.thought} if reply.thought else {}
        if self._kind == "generate":
            return {**head, "response": reply.text, **thinking}
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, **thinking}
        if reply.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "function": {
                        "index": call.place,
                        "name": call.name,
                        "arguments": call.input,
                    },
                }
                for call in reply.calls
            ]
        return {**head, "message": message}

    def _end(self, replies: GenerationStream, finish: str | None) -> dict[str, Any]:
        """Counts and durations, in nanoseconds."""
        usage, timing = replies.usage, replies.timing
        now = time.monotonic()
        first = timing.first or now
        begun = timing.started or first
        return {
            "done": True,
            "done_reason": "length" if finish == "length" else "stop",
            "total_duration": int((now - self._begun) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": int((first - begun) * 1e9),
            "eval_count": usage.reply,
            "eval_duration": int((now - first) * 1e9),
        }
