"""Tool calls as they come: the name as soon as it is certain, then the arguments piece by
piece."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Protocol

from pomona_gateway.parsers.events import Part, TextDelta, ToolCallArguments, ToolCallStart
from pomona_gateway.parsers.tool_calls import CallReader, Schemas, typed_value


@dataclass(frozen=True, slots=True)
class FieldForm:
    """Arguments one by one: what begins one, all of one (``key``, ``value``), what ends them."""

    begin: str
    field: re.Pattern[str]
    end: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class CallForm:
    """The usual form of a call.

    Attributes:
        head: from the end of the call before, if there is one, to where arguments begin;
            it has the group ``name``.
        tail: what may come between arguments and the mark that ends calls.
        fields: None for arguments that are one JSON object.
    """

    head: re.Pattern[str]
    tail: re.Pattern[str]
    fields: FieldForm | None = None


OBJECT_FORM = CallForm(
    re.compile(
        r'\s*(?:\}\s*[,;]\s*)?\[?\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,'
        r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
    ),
    re.compile(r"\s*\}?\s*[\],;]?\s*"),
)
"""``{"name": ..., "arguments": {...}}``, perhaps in a list."""
NAMED_FORM = CallForm(
    re.compile(
        r"\s*(?:\[TOOL_CALLS\])?\s*(?P<name>[\w.:-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?"
        r"(?:\[ARGS\])?\s*(?=\{)"
    ),
    re.compile(r"\s*"),
)
"""``NAME[ARGS]{...}``"""
DEEPSEEK_FORM = CallForm(
    re.compile(
        "(?:\\s*```)?(?:<｜tool▁call▁end｜>)?\\s*<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?"
        "(?P<name>[^<\\n]+?)(?:<｜tool▁sep｜>|\\n```json\\n)\\s*(?=\\{)"
    ),
    re.compile("(?:\\s*```)?(?:<｜tool▁call▁end｜>)?\\s*"),
)
XML_FORM = CallForm(
    re.compile(r"\s*<function=(?P<name>[^>\n]+)>"),
    re.compile(r"\s*"),
    FieldForm(
        "<parameter=",
        re.compile(r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>", re.DOTALL),
        re.compile(r"</function>|(?=</tool_call>)"),
    ),
)
"""``<function=NAME><parameter=KEY>VALUE</parameter></function>``"""
GLM_FORM = CallForm(
    re.compile(r"\s*(?P<name>[^<\s]+)\s*(?=<arg_key>)"),
    re.compile(r"\s*"),
    FieldForm(
        "<arg_key>",
        re.compile(
            r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>", re.DOTALL
        ),
        re.compile(r"(?=</tool_call>)"),
    ),
)
"""``NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>``"""


class ArgumentsReader(Protocol):
    """Reads the arguments of one call."""

    def take(self, text: str) -> tuple[str, str, bool]:
        """What of the text adds to the object, the rest, and whether the object is complete."""
        ...

    def finish(self) -> str:
        """What completes the object when the reply ends here; empty for nothing."""
        ...


class ObjectReader:
    """Arguments that are a JSON object, passed on as the model writes them. A mark inside of
    a string ends nothing."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def take(self, text: str) -> tuple[str, str, bool]:
        for place, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return text[: place + 1], text[place + 1 :], True
        return text, "", False

    def finish(self) -> str:
        return ""


class FieldsReader:
    """Arguments that a notation writes one by one, as the members of an object."""

    def __init__(self, form: FieldForm, schemas: Schemas, name: str) -> None:
        self._form = form
        self._schemas = schemas
        self._name = name
        self._begun = False

    def take(self, text: str) -> tuple[str, str, bool]:
        out = ""
        end = self._form.end.search(text)
        limit = end.start() if end else len(text)
        at = 0
        while (begin := text.find(self._form.begin, at, limit)) >= 0:
            field = self._form.field.match(text, begin, limit)
            if field is None:
                break
            out += self._member(field["key"], field["value"])
            at = field.end()
        if end is None:
            return out, text[at:], False
        return out + self.finish(), text[end.end() :], True

    def finish(self) -> str:
        return "}" if self._begun else "{}"

    def _member(self, key: str, text: str) -> str:
        value = typed_value(text, self._schemas, self._name, key)
        before, self._begun = (", " if self._begun else "{"), True
        told = json.dumps(value, ensure_ascii=False)
        return f"{before}{json.dumps(key, ensure_ascii=False)}: {told}"


class CallStream:
    """Reads what comes between the marks around calls.

    Args:
        form: how calls usually look.
        read: reads the whole of what looks otherwise.
    """

    def __init__(self, form: CallForm, read: CallReader, schemas: Schemas) -> None:
        self._form = form
        self._read = read
        self._schemas = schemas
        self._arguments: ArgumentsReader | None = None
        self._called = False

    @property
    def inside(self) -> bool:
        """Whether a call has begun whose arguments are not complete."""
        return self._arguments is not None

    def take(self, text: str, parts: list[Part]) -> str:
        """Read what is certain; the rest of the text."""
        while text:
            if self._arguments is None:
                head = self._form.head.match(text)
                if head is None:
                    break
                name = head["name"].strip()
                parts.append(ToolCallStart(name))
                self._called, self._arguments = True, self._reader(name)
                text = text[head.end() :]
            told, text, last = self._arguments.take(text)
            if told or last:
                parts.append(ToolCallArguments(told, last))
            if not last:
                break
            self._arguments = None
        return text

    def close(self, text: str) -> list[Part] | None:
        """What is left before the end of the calls; None when it is no call."""
        if self._arguments is not None:
            ending = self._arguments.finish()
            return [ToolCallArguments(ending, last=True)] if ending else []
        if not self._called:
            return self._read(text.strip(), self._schemas)
        rest = self._form.tail.sub("", text, count=1)
        return [TextDelta(rest)] if rest else []

    def _reader(self, name: str) -> ArgumentsReader:
        if self._form.fields is None:
            return ObjectReader()
        return FieldsReader(self._form.fields, self._schemas, name)
