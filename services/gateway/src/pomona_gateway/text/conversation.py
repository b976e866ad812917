"""Rewrites a conversation so that a chat template can express it. Pure.

Nothing that the client wrote is dropped: what the template cannot express in one place moves to
the nearest place where it can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pomona_gateway.text.template_traits import TemplateTraits, format_call_id

Message: TypeAlias = dict[str, Any]

OPENING = "Hello."
"""User message put before a conversation that starts with the assistant."""
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
CALLS_TEXT = "calls_text"
"""Key of a message: its calls in the model's own notation, for a template without calls."""


def adapt_messages(messages: Sequence[Mapping[str, Any]], traits: TemplateTraits) -> list[Message]:
    """Rewrites messages for a template with ``traits``.

    System messages that the template cannot express become user text in their place. Neighbours of
    one role are joined with an empty line between them. Parallel calls become calls in sequence.
    Calls of a template without tool calls become text.

    Args:
        messages: roles ``system``, ``developer`` (the same), ``user``, ``assistant`` and
            ``tool``; arguments of calls are mappings.
    """
    adapted = [dict(message) for message in messages]
    for message in adapted:
        if message["role"] == "developer":
            message["role"] = "system"
    adapted = _place_system(adapted, traits)
    if not traits.calls:
        adapted = calls_as_text(adapted, keep_results=traits.results)
    else:
        if not traits.parallel_calls:
            adapted = _sequential_calls(adapted)
        if not traits.content_with_calls:
            adapted = _separate_content(adapted, traits)
        adapted = _number_calls(adapted, traits)
        if not traits.user_after_results:
            adapted = _join_to_results(adapted)
    adapted = [_name_reasoning(message, traits) for message in adapted]
    adapted = _join_neighbours(adapted, traits)
    for message in adapted:
        message.pop(CALLS_TEXT, None)
    return _open_with_user(adapted, traits)


def adapt_tools(
    tools: Sequence[Mapping[str, Any]], traits: TemplateTraits
) -> list[Mapping[str, Any]]:
    """Adds an empty description and parameters where the template needs them."""
    if traits.bare_tools:
        return list(tools)
    empty = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return [{**tool, "function": {**empty, **tool["function"]}} for tool in tools]


def calls_as_text(
    messages: Sequence[Mapping[str, Any]], keep_results: bool = False
) -> list[Message]:
    """Writes calls and their results as text: what ``CALLS_TEXT`` holds, or Hermes' notation.

    Args:
        keep_results: results stay messages of the role ``tool``, where the calls are not in
            Hermes' notation.
    """
    out: list[Message] = []
    own = keep_results and any(message.get(CALLS_TEXT) for message in messages)
    for message in messages:
        if message.get("role") == "tool" and not own:
            result = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
            if out and out[-1].get("results"):
                out[-1]["content"] += f"\n{result}"
            else:
                out.append({"role": "user", "content": result, "results": True})
        elif message.get("tool_calls"):
            calls = message.get(CALLS_TEXT) or "\n".join(
                _call_as_text(call["function"]) for call in message["tool_calls"]
            )
            content = f"{message.get('content') or ''}\n{calls}".lstrip("\n")
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            out.append({**rest, "content": content})
        else:
            out.append(dict(message))
    for message in out:
        message.pop("results", None)
    return out


def _call_as_text(function: Mapping[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>"


def _place_system(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    """Joins leading system messages, and turns those the template cannot express to user text."""
    lead = 0
    while lead < len(messages) and messages[lead]["role"] == "system":
        lead += 1
    leading, rest = messages[:lead], messages[lead:]
    if len(leading) > 1 and not traits.second_system:
        leading = [_joined(leading)]
    if not traits.system or not (rest or traits.system_alone):
        leading = [{**message, "role": "user"} for message in leading]
    if not traits.late_system:
        rest = [
            {**message, "role": "user"} if message["role"] == "system" else message
            for message in rest
        ]
    return _system_before_results(leading + rest)


def _system_before_results(messages: list[Message]) -> list[Message]:
    """Moves text between a call and its results behind the results, where roles may alternate."""
    out: list[Message] = []
    held: list[Message] = []
    for index, message in enumerate(messages):
        following = messages[index + 1 :]
        between = (
            message["role"] == "user"
            and out
            and (out[-1].get("tool_calls") or out[-1]["role"] == "tool")
            and _results_follow(following)
        )
        if between:
            held.append(message)
            continue
        if held and message["role"] != "tool":
            out += held
            held = []
        out.append(message)
    return out + held


def _results_follow(messages: Sequence[Message]) -> bool:
    """Returns whether a tool result comes before the next assistant message."""
    for message in messages:
        if message["role"] == "tool":
            return True
        if message["role"] == "assistant":
            return False
    return False


def _sequential_calls(messages: list[Message]) -> list[Message]:
    """Splits a message with several calls into one message a call, each before its result."""
    out: list[Message] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            out.append(message)
            continue
        results: list[Message] = []
        while index < len(messages) and messages[index]["role"] == "tool":
            results.append(messages[index])
            index += 1
        for number, call in enumerate(calls):
            own = [x for x in results if x.get("tool_call_id") == call.get("id")]
            if number == 0:
                first = {**message, "tool_calls": [call]}
            else:
                first = {"role": "assistant", "content": "", "tool_calls": [call]}
            out += [first, *own]
            results = [x for x in results if x not in own]
        out += results
    return out


def _separate_content(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    """Puts the text of a message with calls into a message of its own, or writes calls as text."""
    out: list[Message] = []
    written: set[str] = set()
    for message in messages:
        content = message.get("content")
        if message.get("tool_calls") and content:
            if traits.repeated_assistants:
                out += [{"role": "assistant", "content": content}, {**message, "content": ""}]
            else:
                written |= {str(call.get("id")) for call in message["tool_calls"]}
                out += calls_as_text([message])
        elif message["role"] == "tool" and str(message.get("tool_call_id")) in written:
            out += calls_as_text([message])
        else:
            out.append(message)
    return out


def _join_to_results(messages: list[Message]) -> list[Message]:
    """Appends user text that follows a tool result to the result."""
    out: list[Message] = []
    for message in messages:
        if message["role"] == "user" and out and out[-1]["role"] == "tool":
            texts = [out[-1].get("content") or "", message.get("content") or ""]
            out[-1] = {**out[-1], "content": "\n\n".join(text for text in texts if text)}
        else:
            out.append(message)
    return out


def _number_calls(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    """Gives calls and results the ids and the form of arguments that the template takes."""
    ids: dict[str, str] = {}
    count = 0
    out: list[Message] = []
    for message in messages:
        calls: list[Any] = []
        for call in message.get("tool_calls") or []:
            function = call["function"]
            own = call.get("id") or f"call_{count}"
            ids[own] = format_call_id(traits.call_id, own, function["name"], count)
            count += 1
            arguments = function.get("arguments")
            if traits.text_arguments and not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            function = {**function, "arguments": arguments}
            calls.append({**call, "id": ids[own], "function": function})
        if calls:
            message = {**message, "tool_calls": calls}
            if not message.get("content"):
                message["content"] = None if traits.null_content else ""
        elif message["role"] == "tool" and "tool_call_id" in message:
            own = str(message["tool_call_id"])
            named = ids.get(own) or format_call_id(
                traits.call_id, own, str(message.get("name") or "tool"), count
            )
            message = {**message, "tool_call_id": named}
        out.append(message)
    return out


def _name_reasoning(message: Message, traits: TemplateTraits) -> Message:
    """Gives reasoning under the field that the template reads."""
    reasoning = next((message[field] for field in REASONING_FIELDS if message.get(field)), None)
    if reasoning is None:
        return message
    rest = {key: value for key, value in message.items() if key not in REASONING_FIELDS}
    return {**rest, traits.reasoning or "reasoning_content": reasoning}


def _join_neighbours(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    repeatable = {
        "user": traits.repeated_users,
        "assistant": traits.repeated_assistants,
    }
    out: list[Message] = []
    for message in messages:
        role = message["role"]
        same = bool(out) and out[-1]["role"] == role and not repeatable.get(role, True)
        if same and not (out[-1].get("tool_calls") and message.get("tool_calls")):
            out[-1] = _joined([out[-1], message])
        else:
            out.append(message)
    return out


def _joined(messages: Sequence[Message]) -> Message:
    """Joins messages of one role; their texts are separated by an empty line."""
    texts = [message.get("content") or "" for message in messages]
    merged: Message = {}
    for message in messages:
        merged |= message
    merged["content"] = "\n\n".join(text for text in texts if text)
    return merged


def _open_with_user(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), None)
    if traits.assistant_first or first is None or messages[first]["role"] != "assistant":
        return messages
    return [*messages[:first], {"role": "user", "content": OPENING}, *messages[first:]]
