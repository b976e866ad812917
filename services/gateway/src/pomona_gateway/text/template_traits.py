"""Probes a chat template: renders short conversations and records which ones it can express.

A template *expresses* a conversation when it renders it and every word of the conversation is in
the result, in order. Templates raise an exception for what they do not support, or drop it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Protocol, TypeAlias

Message: TypeAlias = Mapping[str, Any]


class Render(Protocol):
    """Renders messages and tools. May raise any exception."""

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        /,
        *,
        add_generation_prompt: bool = True,
    ) -> str: ...


CallIdFormat: TypeAlias = Literal["any", "functions", "nine"]
ReasoningField: TypeAlias = Literal["", "reasoning_content", "thinking", "reasoning"]

_SYSTEM = {"role": "system", "content": "Alder."}
_OTHER_SYSTEM = {"role": "system", "content": "Birch."}
_USER = {"role": "user", "content": "Cedar."}
_OTHER_USER = {"role": "user", "content": "Damson."}
_ASSISTANT = {"role": "assistant", "content": "Elder."}
_OTHER_ASSISTANT = {"role": "assistant", "content": "Fir."}
_LONG_ID = "call_0123456789abcdefghijklmn"
_RESULTS = ("Hazel.", "Ivy.")
_TOOL = {"role": "tool", "content": _RESULTS[0], "name": "larch", "tool_call_id": _LONG_ID}
_REASONING = "Juniper."
_NAMES = ("larch", "maple")
_VALUES = ("Nettle", "Oak")


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """Conversations that a template can express.

    Attributes:
        system: a system message at the start.
        system_alone: a system message with no other message.
        second_system: two system messages at the start.
        late_system: a system message after the first turn.
        repeated_users: two user messages in a row.
        repeated_assistants: two assistant messages in a row.
        assistant_first: an assistant message at the start, or after the system message.
        user_after_results: a user message right after the results of calls.
        tools: definitions of tools.
        bare_tools: definitions of tools without description and parameters.
        calls: earlier tool calls and their results.
        results: messages of the role ``tool``, after calls that are written as text.
        parallel_calls: two calls in one message.
        content_with_calls: text and calls in one message.
        empty_arguments: a call without arguments.
        text_arguments: arguments of a call are given as JSON text, not as a mapping.
        null_content: a message with calls and without text has the content null.
        call_id: required format of call ids: any, ``functions.<name>:<index>``, or nine
            alphanumeric characters.
        reasoning: field of an assistant message that holds its reasoning; empty for none.
        end_of_turn: text right after every assistant message, and nowhere within one; empty for
            none.
    """

    system: bool = True
    system_alone: bool = True
    second_system: bool = True
    late_system: bool = True
    repeated_users: bool = True
    repeated_assistants: bool = True
    assistant_first: bool = True
    user_after_results: bool = True
    tools: bool = True
    bare_tools: bool = True
    calls: bool = True
    results: bool = True
    parallel_calls: bool = True
    content_with_calls: bool = True
    empty_arguments: bool = True
    text_arguments: bool = False
    null_content: bool = False
    call_id: CallIdFormat = "any"
    reasoning: ReasoningField = "reasoning_content"
    end_of_turn: str = ""


PERMISSIVE = TemplateTraits()
"""Everything, as most templates do."""

STRICT = TemplateTraits(
    system=False,
    system_alone=False,
    second_system=False,
    late_system=False,
    repeated_users=False,
    repeated_assistants=False,
    assistant_first=False,
    user_after_results=False,
    tools=False,
    bare_tools=False,
    calls=False,
    results=False,
    parallel_calls=False,
    content_with_calls=False,
    empty_arguments=False,
    reasoning="",
)
"""Only user and assistant messages in turn, which every chat template expresses."""


def probe_template(render: Render) -> TemplateTraits:
    """Renders about thirty short conversations. Never raises.

    A template that renders nothing without tools is probed with tools.
    """
    given = render

    def render_with_tools(
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        /,
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        tools = tools or [_tool(_NAMES[1])]
        return given(messages, tools, add_generation_prompt=add_generation_prompt)

    try:
        given([_USER], ())
    except Exception:  # a template may raise anything
        render = render_with_tools

    def expresses(messages: Sequence[Message], *words: str, tools: Sequence[Any] = ()) -> bool:
        try:
            text = render(messages, tools)
        except Exception:  # a template may raise anything
            return False
        position = 0
        for word in words or [message["content"] for message in messages]:
            position = text.find(word, position)
            if position < 0:
                return False
            position += len(word)
        return True

    def expresses_calls(form: _CallForm, count: int = 1, content: str = "") -> bool:
        # The definitions of tools, which come first, have the same names.
        words = [_USER["content"], *[content] * bool(content)]
        for index in range(count):
            words += [_NAMES[index], _VALUES[index]]
        messages, tools = _calling(form, count, content)
        # A mapping printed by Python, or JSON text encoded as JSON again, is not a valid call.
        try:
            text = render(messages, tools)
        except Exception:  # as above
            return False
        turn = text.rpartition(_USER["content"])[2]
        wrong = "{'" in turn or '{\\"' in turn
        return not wrong and expresses(messages, *words, *_RESULTS[:count], tools=tools)

    forms = [
        _CallForm(text, ids, null)
        for null in (False, True)
        for ids in _ID_FORMATS
        for text in (False, True)
    ]
    form = next((form for form in forms if expresses_calls(form)), None)
    known = form or _CallForm(False, "any")
    tool = _tool(_NAMES[0])
    bare = {"type": "function", "function": {"name": _NAMES[0]}}
    empty, _ = _calling(known, 1, "", empty=True)
    system = expresses([_SYSTEM, _USER])
    after_system = expresses([_SYSTEM, _ASSISTANT, _USER])
    loop, tools = _calling(known, 1, "")
    answered = (_NAMES[0], _VALUES[0], _RESULTS[0], _OTHER_USER["content"])
    reasoning = _reasoning_field(render, known)
    return TemplateTraits(
        system=system,
        system_alone=expresses([_SYSTEM]),
        second_system=expresses([_SYSTEM, _OTHER_SYSTEM, _USER]),
        late_system=expresses([_USER, _ASSISTANT, _SYSTEM, _OTHER_USER]),
        repeated_users=expresses([_USER, _OTHER_USER]),
        repeated_assistants=expresses([_USER, _ASSISTANT, _OTHER_ASSISTANT, _OTHER_USER]),
        assistant_first=expresses([_ASSISTANT, _USER])
        and (after_system or not system)
        and (form is None or expresses([*loop[1:], _OTHER_USER], *answered, tools=tools)),
        user_after_results=form is None or expresses([*loop, _OTHER_USER], *answered, tools=tools),
        tools=expresses([_USER], _NAMES[0], tools=[tool])
        or expresses([_SYSTEM, _USER], _NAMES[0], tools=[tool]),
        bare_tools=expresses([_USER], _NAMES[0], tools=[bare]),
        calls=form is not None,
        results=expresses([_USER, _ASSISTANT, _TOOL], tools=[tool])
        and expresses([_USER, _ASSISTANT, _TOOL, _OTHER_ASSISTANT, _OTHER_USER], tools=[tool]),
        parallel_calls=form is not None and expresses_calls(form, 2),
        # Some templates leave the text out once the turn has ended with an answer.
        content_with_calls=form is not None
        and expresses_calls(form, 1, "Poplar.")
        and expresses(
            [*_calling(form, 1, "Poplar.")[0], _ASSISTANT, _OTHER_USER], "Poplar.", tools=tools
        ),
        empty_arguments=form is not None
        and expresses(empty, _USER["content"], _NAMES[0], _RESULTS[0], tools=[tool]),
        text_arguments=known.text_arguments,
        null_content=known.null_content,
        call_id=known.call_id,
        reasoning=reasoning,
        end_of_turn=_end_of_turn(render, known, reasoning),
    )


@dataclass(frozen=True, slots=True)
class _CallForm:
    """Form of the calls that a template takes."""

    text_arguments: bool
    call_id: CallIdFormat
    null_content: bool = False


_ID_FORMATS: tuple[CallIdFormat, ...] = ("any", "functions", "nine")


def _calling(
    form: _CallForm, count: int, content: str, empty: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns a conversation with ``count`` calls in one message, and the tools it calls."""
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for index, (name, value) in enumerate(zip(_NAMES[:count], _VALUES, strict=False)):
        arguments: Any = {} if empty else {"kind": value}
        call_id = format_call_id(form.call_id, _LONG_ID + str(index), name, index)
        given = json.dumps(arguments) if form.text_arguments else arguments
        function = {"name": name, "arguments": given}
        calls.append({"id": call_id, "type": "function", "function": function})
        results.append(
            {"role": "tool", "content": _RESULTS[index], "tool_call_id": call_id, "name": name}
        )
    text = content or (None if form.null_content else "")
    assistant = {"role": "assistant", "content": text, "tool_calls": calls}
    return [_USER, assistant, *results], [_tool(name) for name in _NAMES[:count]]


def _tool(name: str) -> dict[str, Any]:
    kind = {"type": "string", "description": "Sort."}
    parameters = {"type": "object", "properties": {"kind": kind}, "required": ["kind"]}
    function = {"name": name, "description": "Grows.", "parameters": parameters}
    return {"type": "function", "function": function}


def _reasoning_field(render: Render, form: _CallForm) -> ReasoningField:
    """Finds the field whose text the template renders, in a tool loop or in a past turn."""
    fields: tuple[ReasoningField, ...] = ("reasoning_content", "thinking", "reasoning")
    loop, tools = _calling(form, 1, "")
    turn = [_USER, _ASSISTANT, _OTHER_USER]
    for field in fields:
        for messages, given in ((loop, tools), (turn, [])):
            reasoned = [dict(message) for message in messages]
            reasoned[1][field] = _REASONING
            try:
                if _REASONING in render(reasoned, given):
                    return field
            except Exception:  # a template may raise anything
                continue
    return ""


def _end_of_turn(render: Render, form: _CallForm, reasoning: ReasoningField) -> str:
    def after(messages: Sequence[Message]) -> str:
        text = render(messages, (), add_generation_prompt=False)
        return text.partition(_ASSISTANT["content"])[2]

    def within(messages: Sequence[Message], tools: Sequence[Any], first: str, last: str) -> str:
        try:
            text = render(messages, tools)
        except Exception:  # a template may raise anything
            return ""
        _, found, rest = text.rpartition(first)
        return rest.partition(last)[0] if found and last in rest else ""

    try:
        final = after([_USER, _ASSISTANT])
        earlier = after([_USER, _ASSISTANT, _OTHER_USER])
    except Exception:  # as above
        return ""
    mark = final.strip()
    if not mark or not earlier.startswith(final.rstrip()):
        return ""
    reasoned = [_USER, {**_ASSISTANT, reasoning or "reasoning_content": _REASONING}]
    calling, tools = _calling(form, 1, "Poplar.")
    ends = (
        within(reasoned, (), _REASONING, _ASSISTANT["content"]),
        within(calling[:2], tools, "Poplar.", _NAMES[0]),
    )
    return "" if any(mark in text for text in ends) else mark


def format_call_id(kind: CallIdFormat, call_id: str, name: str, index: int) -> str:
    """Maps a client's call id to the template's format, always to the same id."""
    if kind == "functions":
        return f"functions.{name}:{index}"
    if kind == "nine":
        kept = "".join(c for c in call_id if c.isascii() and c.isalnum())
        if len(kept) == 9 and kept == call_id:
            return call_id
        return blake2b(call_id.encode(), digest_size=5).hexdigest()[:9]
    return call_id
