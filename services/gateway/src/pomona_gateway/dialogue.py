"""A chat, whatever dialect it came in: prompt in, parts of replies out."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pomona_gateway.completion import Completion, Replies, Waiting
from pomona_gateway.output import Called, OutputFormat, Part, Said, Thought
from pomona_gateway.reply_text import TokenChance


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
class Dialogue:
    """One chat request: how its prompt was rendered, and how its replies are read."""

    completion: Completion
    prompt: str
    output: OutputFormat
    tools: Tools


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call with the identity by which its result comes back."""

    id: str
    place: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What a moment adds to one reply. ``finish``: stop, length or tool_calls; ``stop``:
    the stop string that ended it."""

    index: int
    parts: tuple[Said | Thought | ToolCall, ...]
    chances: tuple[TokenChance, ...] = ()
    finish: str | None = None
    stop: str | None = None


@dataclass(slots=True)
class WholeReply:
    """One reply, put together."""

    text: str = ""
    thought: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    chances: list[TokenChance] = field(default_factory=list[TokenChance])
    finish: str | None = None
    stop: str | None = None

    def add(self, turn: Turn) -> None:
        for part in turn.parts:
            match part:
                case Said(text=text):
                    self.text += text
                case Thought(text=text):
                    self.thought += text
                case ToolCall():
                    self.calls.append(part)
        self.chances += turn.chances
        self.finish = turn.finish or self.finish
        self.stop = turn.stop or self.stop


class DialogueReplies:
    """Reads the running replies of a dialogue."""

    def __init__(self, dialogue: Dialogue, replies: Replies) -> None:
        self._dialogue = dialogue
        self._replies = replies
        self.thought_tokens = 0
        tools = dialogue.tools
        schemas = tools.schemas() if tools.functions else None
        count = dialogue.completion.replies
        self._parsers = [dialogue.output.parser(schemas, dialogue.prompt) for _ in range(count)]
        self._calls = [0] * count

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
                if finish == "stop" and self._calls[index]:
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

    def _identify(
        self, index: int, parts: Sequence[Part]
    ) -> tuple[tuple[Said | Thought | ToolCall, ...], bool]:
        """Calls with their ids; and whether no more may come."""
        out: list[Said | Thought | ToolCall] = []
        for part in parts:
            if not isinstance(part, Called):
                out.append(part)
                continue
            place = self._calls[index]
            self._calls[index] += 1
            identity = f"call_{secrets.token_hex(12)}"
            out.append(ToolCall(identity, place, part.name, part.arguments))
            if not self._dialogue.tools.parallel:
                return tuple(out), True
        return tuple(out), False
