"""A chat, whatever dialect it came in: prompt in, parts of replies out."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from pydantic_core import from_json

from pomona_gateway.generation.completion import Completion, GenerationStream, Waiting
from pomona_gateway.generation.detokenizer import TokenLogprob
from pomona_gateway.parsers import (
    Part,
    ReasoningDelta,
    ReplyNotation,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
    reply_reader,
)


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call.

    Attributes:
        parameters: JSON Schema of its arguments.
        where: the parameter of the request that holds the schema.
        strict: calls of it always match the schema.
    """

    name: str
    description: str | None
    parameters: Mapping[str, Any] | None
    where: str
    strict: bool = False

    @property
    def definition(self) -> dict[str, Any]:
        """As OpenAI's API has it, and chat templates read it."""
        fields = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        told = {name: value for name, value in fields.items() if value is not None}
        return {"type": "function", "function": told}


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request lets the model call.

    Attributes:
        parallel: more than one call in a reply.
        forced: the reply is calls and nothing else.
        only: the one function that may be called, when ``forced``; empty for any.
    """

    functions: tuple[Function, ...] = ()
    parallel: bool = True
    forced: bool = False
    only: str = ""

    @property
    def definitions(self) -> tuple[dict[str, Any], ...]:
        return tuple(function.definition for function in self.functions)

    def schemas(self) -> dict[str, Mapping[str, Any]]:
        return {function.name: function.parameters or {} for function in self.functions}


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    """One chat request: how its prompt was rendered, and how its replies are read."""

    completion: Completion
    prompt: str
    output: ReplyNotation
    tools: Tools


@dataclass(frozen=True, slots=True)
class CallPiece:
    """What comes next of a call.

    Attributes:
        id: by which the call's result comes back.
        place: which of the reply's calls, from 0.
        arguments: a piece of a JSON object as text.
        begins: the call's first piece.
        ends: its last one. A reply that ends early leaves its last call without that.
    """

    id: str
    place: int
    name: str
    arguments: str = ""
    begins: bool = False
    ends: bool = False


def argument_object(written: str) -> dict[str, Any]:
    """The arguments that a model wrote as an object: what a limit cut off is left out. Without
    a grammar a model may also write what is no JSON; that goes where Anthropic's clients look
    for it
    (https://docs.claude.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming).
    """
    try:
        read = from_json(written or "{}", allow_partial=True)
    except ValueError:
        read = None
    if isinstance(read, dict):
        return cast("dict[str, Any]", read)
    return {"INVALID_JSON": written}


@dataclass(slots=True)
class ToolCall:
    """A call, put together."""

    id: str
    place: int
    name: str
    arguments: str = ""

    @property
    def input(self) -> dict[str, Any]:
        """The arguments for dialects that tell them as an object."""
        return argument_object(self.arguments)


TurnPart: TypeAlias = TextDelta | ReasoningDelta | CallPiece


@dataclass(frozen=True, slots=True)
class Turn:
    """What a moment adds to one reply. ``finish``: stop, length or tool_calls; ``stop``:
    the stop string that ended it."""

    index: int
    parts: tuple[TurnPart, ...]
    chances: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    stop: str | None = None


@dataclass(slots=True)
class WholeReply:
    """One reply, put together."""

    text: str = ""
    thought: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    chances: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finish: str | None = None
    stop: str | None = None

    def add(self, turn: Turn) -> None:
        for part in turn.parts:
            match part:
                case TextDelta(text=text):
                    self.text += text
                case ReasoningDelta(text=text):
                    self.thought += text
                case CallPiece():
                    if part.begins:
                        self.calls.append(ToolCall(part.id, part.place, part.name))
                    self.calls[-1].arguments += part.arguments
        self.chances += turn.chances
        self.finish = turn.finish or self.finish
        self.stop = turn.stop or self.stop


class DialogueReplies:
    """Reads the running replies of a dialogue."""

    def __init__(self, dialogue: ChatCompletion, replies: GenerationStream) -> None:
        self._dialogue = dialogue
        self._replies = replies
        self.thought_tokens = 0
        tools = dialogue.tools
        schemas = tools.schemas() if tools.functions else None
        count = dialogue.completion.replies
        self._parsers = [
            reply_reader(dialogue.output, schemas, dialogue.prompt) for _ in range(count)
        ]
        self._called: list[list[CallPiece]] = [[] for _ in range(count)]

    async def turns(self, pause_s: float) -> AsyncGenerator[Turn | Waiting]:
        """Until every reply ended; something at the latest every ``pause_s`` seconds."""
        async with aclosing(self._replies.events(pause_s)) as events:
            async for event in events:
                if isinstance(event, Waiting):
                    yield event
                    continue
                index, piece = event
                parser = self._parsers[index]
                self.thought_tokens += parser.thinking
                parts = parser.push(piece.text)
                if piece.finish is not None:
                    parts += parser.finish()
                identified, enough = self._identify(index, parts)
                finish = piece.finish
                if enough and finish is None:
                    self._replies.end(index, "stop")
                    finish = "stop"
                if finish == "stop" and self._called[index]:
                    finish = "tool_calls"
                if identified or piece.chances or finish:
                    yield Turn(index, identified, piece.chances, finish, piece.stop)

    async def whole(self, pause_s: float) -> list[WholeReply]:
        """Every reply, when all have ended."""
        replies = [WholeReply() for _ in self._parsers]
        async with aclosing(self.turns(pause_s)) as turns:
            async for turn in turns:
                if isinstance(turn, Turn):
                    replies[turn.index].add(turn)
        return replies

    def _identify(self, index: int, parts: Sequence[Part]) -> tuple[tuple[TurnPart, ...], bool]:
        """Calls with their ids; and whether no more may come."""
        called = self._called[index]
        out: list[TurnPart] = []
        for part in parts:
            match part:
                case ToolCallStart(name=name):
                    identity = f"call_{secrets.token_hex(12)}"
                    called.append(CallPiece(identity, len(called), name, begins=True))
                    out.append(called[-1])
                case ToolCallArguments(text=text, last=last):
                    call = called[-1]
                    out.append(CallPiece(call.id, call.place, call.name, text, ends=last))
                    if last and not self._dialogue.tools.parallel:
                        return tuple(out), True
                case _:
                    out.append(part)
        return tuple(out), False
