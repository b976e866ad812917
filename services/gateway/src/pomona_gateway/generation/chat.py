"""Chat completions of every API dialect: replies parsed into text, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from pydantic_core import from_json

from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.generation.completion import Completion
from pomona_gateway.generation.detokenizer import ReplyDelta, TokenLogprob
from pomona_gateway.parsers import (
    Part,
    ReasoningDelta,
    ReplyNotation,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
    reply_reader,
)
from pomona_gateway.runs.run_context import new_hex


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call.

    Attributes:
        parameters: JSON Schema of the arguments.
        where: request parameter that holds the schema, for error messages.
        strict: every call must match the schema.
        input_grammar: a Lark grammar of the only argument; empty for none.
    """

    name: str
    description: str | None
    parameters: Mapping[str, Any] | None
    where: str
    strict: bool = False
    input_grammar: str = ""

    @property
    def definition(self) -> dict[str, Any]:
        """The function in the form of OpenAI's API, which chat templates read."""
        fields = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        return {"type": "function", "function": present}


@dataclass(frozen=True, slots=True)
class Tools:
    """Tools of a request.

    Attributes:
        parallel: a reply may have several calls.
        forced: a reply must consist of calls only.
        only: name of the only function that may be called when ``forced``; empty for any.
    """

    functions: tuple[Function, ...] = ()
    parallel: bool = True
    forced: bool = False
    only: str = ""

    @property
    def definitions(self) -> tuple[dict[str, Any], ...]:
        """Definitions of all functions, in the form of OpenAI's API."""
        return tuple(function.definition for function in self.functions)

    def schemas(self) -> dict[str, Mapping[str, Any]]:
        """Returns the JSON Schemas of the arguments, by function name."""
        return {function.name: function.parameters or {} for function in self.functions}


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    """One chat request.

    Attributes:
        prompt: the rendered prompt.
        output: notation of reasoning and tool calls in the replies.
        opened: the replies begin inside the reasoning.
    """

    completion: Completion
    prompt: str
    output: ReplyNotation
    tools: Tools
    opened: bool = False


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """Part of a tool call.

    Attributes:
        id: id of the call, which its result refers to.
        index: number of the call in its reply, from 0.
        arguments: part of a JSON object as text.
        first: the first part of the call.
        last: the last part of the call. It is missing when the reply ends inside the call.
    """

    id: str
    index: int
    name: str
    arguments: str = ""
    first: bool = False
    last: bool = False


def parse_arguments(text: str) -> dict[str, Any]:
    """Parses the arguments of a tool call.

    Incomplete JSON is parsed up to where it ends. Text that is not a JSON object, which a model
    may write without a grammar, is returned under ``INVALID_JSON``, as Anthropic documents
    (https://docs.claude.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming).
    """
    try:
        value = from_json(text or "{}", allow_partial=True)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    return {"INVALID_JSON": text}


@dataclass(slots=True)
class ToolCall:
    """A tool call. ``arguments``: a JSON object as text."""

    id: str
    index: int
    name: str
    arguments: str = ""

    @property
    def input(self) -> dict[str, Any]:
        """The parsed arguments."""
        return parse_arguments(self.arguments)


ChatPart: TypeAlias = TextDelta | ReasoningDelta | ToolCallDelta


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """Parts that one event adds to a choice.

    Attributes:
        index: number of the choice.
        finish: ``stop``, ``length`` or ``tool_calls``, in the last delta.
        stop: stop string that ended the reply.
    """

    index: int
    parts: tuple[ChatPart, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    stop: str | None = None


@dataclass(slots=True)
class ChatReply:
    """One reply, built up from its deltas."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finish: str | None = None
    stop: str | None = None

    def add(self, delta: ChatDelta) -> None:
        """Appends a delta."""
        for part in delta.parts:
            match part:
                case TextDelta(text=text):
                    self.text += text
                case ReasoningDelta(text=text):
                    self.reasoning += text
                case ToolCallDelta():
                    if part.first:
                        self.calls.append(ToolCall(part.id, part.index, part.name))
                    self.calls[-1].arguments += part.arguments
        self.logprobs += delta.logprobs
        self.finish = delta.finish or self.finish
        self.stop = delta.stop or self.stop


class ChatStream:
    """Parses the running replies of a chat completion.

    Attributes:
        reasoning_tokens: number of reasoning tokens so far, over all choices.
    """

    def __init__(self, chat: ChatCompletion, replies: GenerationStream) -> None:
        self._replies = replies
        self._parallel = chat.tools.parallel
        self.reasoning_tokens = 0
        schemas = chat.tools.schemas() if chat.tools.functions else None
        count = chat.completion.choice_count
        self._parsers = [
            reply_reader(chat.output, schemas, chat.prompt, chat.opened) for _ in range(count)
        ]
        self._calls: list[list[ToolCallDelta]] = [[] for _ in range(count)]

    async def deltas(self, pause_s: float) -> AsyncGenerator[ChatDelta | PromptProgress]:
        """Yields deltas until all choices have ended, and the progress of the prompt.

        Something comes at least every ``pause_s`` seconds. Raises RequestError when a choice
        fails.
        """
        while (event := await self._replies.receive(pause_s)) is not None:
            if isinstance(event, PromptProgress):
                yield event
            elif (delta := self._parse(*event)) is not None:
                yield delta

    async def collect(self, pause_s: float) -> list[ChatReply]:
        """Waits for the end of all choices and returns their replies."""
        replies = [ChatReply() for _ in self._parsers]
        async with aclosing(self.deltas(pause_s)) as deltas:
            async for delta in deltas:
                if isinstance(delta, ChatDelta):
                    replies[delta.index].add(delta)
        return replies

    def _parse(self, index: int, reply: ReplyDelta) -> ChatDelta | None:
        """Parses the new text of a choice. Ends the choice after its only allowed call."""
        parser = self._parsers[index]
        self.reasoning_tokens += parser.thinking
        parsed = parser.push(reply.text)
        if reply.finish is not None:
            parsed += parser.finish(cut=reply.finish == "length")
        parts, complete = self._number_calls(index, parsed)
        finish = reply.finish
        if complete and finish is None:
            self._replies.finish(index, "stop")
            finish = "stop"
        if finish == "stop" and self._calls[index]:
            finish = "tool_calls"
        if not parts and not reply.logprobs and not finish:
            return None
        return ChatDelta(index, parts, reply.logprobs, finish, reply.stop)

    def _number_calls(
        self, index: int, parsed: Sequence[Part]
    ) -> tuple[tuple[ChatPart, ...], bool]:
        """Gives calls an id and a number. Returns True as well when no more may follow."""
        calls = self._calls[index]
        out: list[ChatPart] = []
        for part in parsed:
            match part:
                case ToolCallStart(name=name):
                    call_id = f"call_{new_hex(12)}"
                    calls.append(ToolCallDelta(call_id, len(calls), name, first=True))
                    out.append(calls[-1])
                case ToolCallArguments(text=text, last=last):
                    call = calls[-1]
                    out.append(ToolCallDelta(call.id, call.index, call.name, text, last=last))
                    if last and not self._parallel:
                        return tuple(out), True
                case _:
                    out.append(part)
        return tuple(out), False
