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
class Tools:
    """What a request lets the model call.

    Attributes:
        definitions: as OpenAI's API has them, for the chat template.
        parallel: more than one call in a reply.
    """

    definitions: tuple[Mapping[str, Any], ...] = ()
    parallel: bool = True

    def schemas(self) -> dict[str, Mapping[str, Any]]:
        functions = [definition["function"] for definition in self.definitions]
        return {x["name"]: x.get("parameters") or {} for x in functions}


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
        schemas = tools.schemas() if tools.definitions else None
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
