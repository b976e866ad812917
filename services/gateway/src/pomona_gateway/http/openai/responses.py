"""``POST /v1/responses`` (https://platform.openai.com/docs/api-reference/responses)."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.generation.chat import ChatCompletion, ChatReply, ChatStream
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.http import sse
from pomona_gateway.http.common.prepare_chat import open_dialogue
from pomona_gateway.http.common.run_request import answer, gateway_of, receive, share_of
from pomona_gateway.http.json_response import encode
from pomona_gateway.http.openai.response_store import ResponseStore
from pomona_gateway.http.openai.responses_items import OutputItems
from pomona_gateway.http.openai.responses_request import ResponsesRequest


async def responses(request: Request) -> Response | ASGIApp:
    """Answer one request for a response, streamed or whole."""
    asked = await receive(request, ResponsesRequest)
    gateway = gateway_of(request)
    share = share_of(request)
    earlier: tuple[dict[str, Any], ...] = ()
    if asked.previous_response_id is not None:
        found = gateway.response_store.find(asked.previous_response_id, share)
        if found is None:
            message = f"there is no response {asked.previous_response_id!r}, or it is forgotten"
            name = "previous_response_id"
            raise RequestError(400, "previous_response_not_found", message, name)
        earlier = found.messages
    turns = [*earlier, *asked.turns()]
    system = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    dialogue = await open_dialogue(
        gateway,
        asked.parameters(),
        [*system, *turns],
        asked.allowed_tools(),
        shape=asked.shape(),
        max_tokens=asked.max_output_tokens,
        effort=asked.reasoning.effort if asked.reasoning else None,
    )
    keeper = None
    if asked.store is not False:
        keeper = Keeper(gateway.response_store, share, turns, asked.items())
    writer = ResponseWriter(asked, dialogue, keeper)
    return await answer(request, dialogue.completion, writer, bool(asked.stream))


class Keeper:
    """Remembers a conversation when its response is complete.

    Args:
        turns: the conversation up to it; ``items`` is what the request added to it.
    """

    def __init__(
        self,
        conversations: ResponseStore,
        share: str,
        turns: list[dict[str, Any]],
        items: list[dict[str, Any]],
    ) -> None:
        self._conversations = conversations
        self._share = share
        self._turns = turns
        self._items = items

    def keep(self, reply: ChatReply, response: dict[str, Any]) -> None:
        turn: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.reasoning:
            turn["reasoning_content"] = reply.reasoning
        if reply.calls:
            turn["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.input},
                }
                for call in reply.calls
            ]
        self._conversations.keep(self._share, [*self._turns, turn], self._items, response)


class ResponseWriter:
    """Writes a reply as a response object, whole or as events."""

    media_type = sse.MEDIA_TYPE

    def __init__(
        self, asked: ResponsesRequest, dialogue: ChatCompletion, keeper: Keeper | None
    ) -> None:
        self._asked = asked
        self._dialogue = dialogue
        self._keeper = keeper
        self._numbers = itertools.count()
        self._id = f"resp_{secrets.token_hex(16)}"
        self._created = time.time()

    def failure(self, error: RequestError) -> bytes:
        told = {"code": error.code, "message": error.message}
        body = {**self._object("failed", []), "error": told}
        return self._event({"type": "response.failed", "response": body})

    async def whole(self, replies: GenerationStream, pause_s: float) -> dict[str, Any]:
        last: dict[str, Any] = {}
        async with aclosing(self._events(replies, pause_s)) as events:
            async for event in events:
                last = last if isinstance(event, PromptProgress) else event
        return last["response"]

    async def stream(self, replies: GenerationStream, pause_s: float) -> AsyncGenerator[bytes]:
        async with aclosing(self._events(replies, pause_s)) as events:
            async for event in events:
                waiting = isinstance(event, PromptProgress)
                yield sse.comment(str(event)) if waiting else self._event(event)

    async def _events(
        self, replies: GenerationStream, pause_s: float
    ) -> AsyncGenerator[dict[str, Any] | PromptProgress]:
        """The events of a response, and signs of life between them."""
        begun = self._object("in_progress", [])
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        items = OutputItems()
        read = ChatStream(self._dialogue, replies)
        reply = ChatReply()
        async with aclosing(read.deltas(pause_s)) as turns:
            async for turn in turns:
                if isinstance(turn, PromptProgress):
                    yield turn
                    continue
                reply.add(turn)
                for event in items.write(turn):
                    yield event
        status = "incomplete" if reply.finish == "length" else "completed"
        for event in items.close(status):
            yield event
        body = self._object(status, items.output)
        if status == "incomplete":
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        body["usage"] = _usage(replies, read.reasoning_tokens)
        if self._keeper is not None:
            self._keeper.keep(reply, body)
        yield {"type": f"response.{status}", "response": body}

    def _event(self, event: dict[str, Any]) -> bytes:
        kind = str(event["type"]).encode()
        numbered = {**event, "sequence_number": next(self._numbers)}
        return b"event: " + kind + b"\ndata: " + encode(numbered) + b"\n\n"

    def _object(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        asked = self._asked
        drawn = self._dialogue.completion.sampling
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": self._dialogue.completion.model,
            "output": output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None},
            "store": asked.store is not False,
            "temperature": drawn.temperature,
            "text": {"format": _format(asked)},
            "tool_choice": _choice(asked),
            "tools": [tool.model_dump() for tool in asked.tools or []],
            "top_p": drawn.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": asked.user,
            "metadata": asked.metadata or {},
        }


def _format(asked: ResponsesRequest) -> dict[str, Any]:
    held = asked.text.format if asked.text else None
    return held.model_dump(by_alias=True) if held else {"type": "text"}


def _choice(asked: ResponsesRequest) -> str | dict[str, Any]:
    choice = asked.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()


def _usage(replies: GenerationStream, thought: int) -> dict[str, Any]:
    usage = replies.usage
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.reply,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.prompt + usage.reply,
    }
