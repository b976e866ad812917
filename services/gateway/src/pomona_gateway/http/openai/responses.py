"""``POST /v1/responses`` (https://platform.openai.com/docs/api-reference/responses)."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.generation.chat import ChatCompletion, ChatReply, ChatStream
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.http import sse
from pomona_gateway.http.common.chat_messages import template_call_object
from pomona_gateway.http.common.custom_calls import CustomCalls
from pomona_gateway.http.common.prepare_chat import prepare_chat, render_prompt
from pomona_gateway.http.common.reasoning import (
    ReasoningWish,
    effort_wish,
    reasoning_variables,
)
from pomona_gateway.http.common.run_request import (
    BACKGROUND,
    INTERACTIVE,
    gateway_of,
    note_parameters,
    read_raw,
    read_request,
    run_request,
    tenant_of,
    wait_for_model,
)
from pomona_gateway.http.common.tools import custom_names
from pomona_gateway.http.ignored import ignored_of
from pomona_gateway.http.openai.response_object import response_object
from pomona_gateway.http.openai.response_runs import executed_response, start_response
from pomona_gateway.http.openai.response_store import Messages, missing_response
from pomona_gateway.http.openai.responses_items import OutputItems
from pomona_gateway.http.openai.responses_request import InputTokensRequest, ResponsesRequest
from pomona_gateway.http.request_body import parse_body
from pomona_gateway.http.respond import JsonResponse
from pomona_gateway.runs.run import Run
from pomona_gateway.runs.run_context import new_hex, request_time
from pomona_gateway.text.limits import PromptTooLongError


async def responses(request: Request) -> Response | ASGIApp:
    """Answers a request of the Responses API, whole, streamed or in the background.

    A response that is stored is a run, so that its client may lose the connection. The run
    executes this handler once more, and records the events.
    """
    raw = await read_raw(request)
    body = parse_body(ResponsesRequest, raw)
    run = executed_response(request)
    if run is None and body.store is not False:
        return await start_response(request, body, raw)
    note_parameters(request, body)
    await wait_for_model(request, body)
    messages = [
        *_earlier_messages(request, body.previous_response_id),
        *body.messages(ignored_of(request)),
    ]
    chat = await _prepare(request, body, messages)

    items = body.input_items()

    def store(reply: ChatReply, response: dict[str, Any]) -> None:
        if body.store is not False:
            conversation = [*messages, _template_message(reply)]
            gateway_of(request).response_store.put(
                tenant_of(request), conversation, items, response
            )

    writer = ResponsesWriter(body, chat, store, run)
    if run is None:
        return await run_request(request, chat.completion, writer, bool(body.stream))
    run.items = tuple(items)
    is_read = body.stream and not body.background
    priority = INTERACTIVE if is_read else BACKGROUND
    return await run_request(request, chat.completion, writer, True, priority)


async def input_tokens(request: Request) -> Response:
    """Counts the tokens of a request's prompt."""
    body = await read_request(request, InputTokensRequest)
    ignored = ignored_of(request)
    _, language = gateway_of(request).models.find(body.model)
    earlier = _earlier_messages(request, body.previous_response_id)
    messages = [*_system(body), *earlier, *body.messages(ignored)]
    variables = reasoning_variables(language, _wish(body), ignored)
    _, prompt = await render_prompt(
        language, messages, body.offered_tools(), variables, parameter="input"
    )
    return JsonResponse({"object": "response.input_tokens", "input_tokens": len(prompt)})


async def _prepare(
    request: Request, body: ResponsesRequest, messages: Sequence[dict[str, Any]]
) -> ChatCompletion:
    """Prepares the chat. With ``truncation: auto`` the oldest turns are dropped until it fits."""
    kept = list(messages)
    while True:
        try:
            return await prepare_chat(
                gateway_of(request),
                body.parameters(),
                [*_system(body), *kept],
                body.offered_tools(),
                max_tokens=body.max_reply_tokens(),
                ignored=ignored_of(request),
                shape=body.shape(),
                wish=_wish(body),
                prompt_parameter="input",
            )
        except PromptTooLongError as error:
            shorter = without_oldest(kept, error.prompt_tokens / error.context_length)
            if body.truncation != "auto" or len(shorter) == len(kept):
                raise
            kept = shorter


def without_oldest(messages: Sequence[dict[str, Any]], excess: float) -> list[dict[str, Any]]:
    """Drops the oldest turns of a conversation, up to the user message that begins a later turn.

    System messages stay, and so does the last turn.

    Args:
        excess: length of the prompt as a multiple of the context.
    """
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    goal = max(1, int(len(messages) * (1 - 1 / excess)))
    later = [start for start in starts[1:] if start >= goal] or starts[-1:]
    if not later:
        return list(messages)
    begin = later[0]
    system = [message for message in messages[:begin] if message["role"] == "system"]
    return [*system, *messages[begin:]]


def _system(body: InputTokensRequest) -> list[dict[str, Any]]:
    return [{"role": "system", "content": body.instructions}] if body.instructions else []


def _wish(body: InputTokensRequest) -> ReasoningWish | None:
    return effort_wish(body.reasoning.effort if body.reasoning else None, "reasoning.effort")


def _earlier_messages(request: Request, previous_response_id: str | None) -> Messages:
    if previous_response_id is None:
        return ()
    conversation = gateway_of(request).response_store.get(previous_response_id, tenant_of(request))
    if conversation is None or not conversation.is_complete:
        message = missing_response(previous_response_id)
        raise RequestError(400, "previous_response_not_found", message, "previous_response_id")
    return conversation.messages


def _template_message(reply: ChatReply) -> dict[str, Any]:
    """Converts a reply to the form that chat templates read."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [
            template_call_object(call.id, call.name, call.input) for call in reply.calls
        ]
    return message


class ResponsesWriter:
    """Writes a reply as a response object, or as the events of one.

    Args:
        on_complete: called with the reply and its response object.
    """

    media_type = sse.MEDIA_TYPE

    def __init__(
        self,
        body: ResponsesRequest,
        chat: ChatCompletion,
        on_complete: Callable[[ChatReply, dict[str, Any]], None],
        run: Run | None = None,
    ) -> None:
        """Args: run: the run that records the events, and gets the object as it is so far."""
        self._body = body
        self._chat = chat
        self._custom = custom_names(body.tools)
        self._on_complete = on_complete
        self._sequence_numbers = itertools.count()
        self._run = run
        self._id = f"resp_{new_hex(16)}" if run is None else run.id
        self._created_at = request_time()
        self._snapshot("queued" if body.background else "in_progress", [])

    async def whole(self, stream: GenerationStream, keep_alive_s: float) -> dict[str, Any]:
        """Returns the response object of the last event."""
        last: dict[str, Any] = {}
        async with aclosing(self._events(stream, keep_alive_s)) as events:
            async for event in events:
                last = last if isinstance(event, PromptProgress) else event
        return last["response"]

    async def chunks(self, stream: GenerationStream, keep_alive_s: float) -> AsyncGenerator[bytes]:
        """Yields the encoded events, and comments while there is no text."""
        async with aclosing(self._events(stream, keep_alive_s)) as events:
            async for event in events:
                waiting = isinstance(event, PromptProgress)
                yield sse.comment(str(event)) if waiting else self._encode(event)

    def keep_alive_chunk(self) -> bytes:
        """Encodes a comment."""
        return sse.WORKING

    def error_chunk(self, error: RequestError) -> bytes:
        """Encodes the event of a failed response."""
        failure = {"code": error.code, "message": error.message}
        response = self._snapshot("failed", [])
        response["error"] = failure
        return self._encode({"type": "response.failed", "response": response})

    async def _events(
        self, stream: GenerationStream, keep_alive_s: float
    ) -> AsyncGenerator[dict[str, Any] | PromptProgress]:
        custom_calls = CustomCalls(self._custom)
        items = OutputItems(self._custom)
        if self._body.background:
            response = self._snapshot("queued", [])
            yield {"type": "response.created", "response": response}
            yield {"type": "response.queued", "response": response}
        response = self._response_object("in_progress", [])
        if not self._body.background:
            yield {"type": "response.created", "response": response}
        yield {"type": "response.in_progress", "response": response}
        self._snapshot("in_progress", items.output)
        replies = ChatStream(self._chat, stream)
        reply = ChatReply()
        async with aclosing(replies.deltas(keep_alive_s)) as turns:
            async for turn in turns:
                if isinstance(turn, PromptProgress):
                    yield turn
                    continue
                reply.add(turn)
                for event in items.add(custom_calls.merge(turn)):
                    yield event
        status = "incomplete" if reply.finish == "length" else "completed"
        for event in items.end_item(status):
            yield event
        response = self._snapshot(status, items.output)
        if status == "completed":
            response["completed_at"] = time.time()
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["usage"] = _usage_object(stream, replies.reasoning_tokens)
        self._on_complete(reply, response)
        yield {"type": f"response.{status}", "response": response}

    def _encode(self, event: dict[str, Any]) -> bytes:
        numbered = {**event, "sequence_number": next(self._sequence_numbers)}
        return sse.event(str(event["type"]), numbered)

    def _snapshot(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the response object, and gives it to the run."""
        response = self._response_object(status, output)
        if self._run is not None:
            self._run.snapshot = response
        return response

    def _response_object(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        completion = self._chat.completion
        sampling = completion.sampling
        return {
            **response_object(self._body, self._id, self._created_at, status),
            "model": completion.model,
            "output": output,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }


def _usage_object(stream: GenerationStream, reasoning_tokens: int) -> dict[str, Any]:
    usage = stream.usage
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.reply,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.prompt + usage.reply,
    }
