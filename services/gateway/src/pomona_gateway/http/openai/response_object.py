"""The response object of the Responses API, as far as it follows from the request."""

from __future__ import annotations

from typing import Any

from pomona_gateway.http.openai.responses_request import ResponsesRequest


def response_object(
    body: ResponsesRequest, response_id: str, created_at: float, status: str
) -> dict[str, Any]:
    """Returns a response without output.

    Args:
        created_at: Unix time in seconds.
    """
    labels = body.model_extra or {}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": status,
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None},
        "store": body.store is not False,
        "temperature": body.temperature,
        "text": {"format": _format_object(body)},
        "tool_choice": _tool_choice_object(body),
        "tools": [tool.model_dump() for tool in body.tools or []],
        "top_p": body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": labels.get("user"),
        "metadata": labels.get("metadata") or {},
    }


def _format_object(body: ResponsesRequest) -> dict[str, Any]:
    text_format = body.text.format if body.text else None
    return text_format.model_dump(by_alias=True) if text_format else {"type": "text"}


def _tool_choice_object(body: ResponsesRequest) -> str | dict[str, Any]:
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()
