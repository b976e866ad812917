"""Renders known turns through a chat template and compares the results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import product
from typing import Any, Protocol

from pomona.errors import PomonaError
from pomona_gateway.parsers.notation import ID_SLOT

USER, CONTENT, REASON = "zquserzq", "zqcontentzq", "zqreasonzq"
NAMES = ("zqalphazq", "zqbetazq")
KEYS = ("zqkeyazq", "zqkeybzq")
VALUES = ("zqvalueazq", "zqvaluebzq")
IDS = ("zqid00001", "zqid00002")
"""Nine letters and digits, as Mistral's templates demand."""
UNKNOWN_TOKENS = {f"{kind}_token": f"<zq{kind}zq>" for kind in ("bos", "eos", "unk", "pad")}
"""Special tokens for a template whose own are not known."""
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")

_ATOMS = re.compile(r"<[^<>\s]*>|\[/?[A-Z_]+\]|\w+|\s|[^\w\s]")
_QUOTED = re.compile(r"\\+\"")
_LATER = "zqlaterzq"


class Render(Protocol):
    """Renders messages through a template; raises RequestError when it refuses them."""

    def __call__(
        self,
        messages: list[Mapping[str, Any]],
        tools: list[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        **variables: Any,
    ) -> str: ...


def atoms(text: str) -> list[str]:
    return _ATOMS.findall(text)


def same_start(one: str, other: str) -> str:
    """The longest common begin that splits no tag and no word."""
    pieces = zip(atoms(one), atoms(other), strict=False)
    out = ""
    for left, right in pieces:
        if left != right:
            break
        out += left
    return out


def same_end(one: str, other: str) -> str:
    """The longest common end that splits no tag and no word."""
    out = ""
    for left, right in zip(reversed(atoms(one)), reversed(atoms(other)), strict=False):
        if left != right:
            break
        out = left + out
    return out


def tool(name: str) -> Mapping[str, Any]:
    text = {"type": "string", "description": "zqtext"}
    parameters = {"type": "object", "properties": dict.fromkeys(KEYS, text), "required": []}
    function = {"name": name, "description": "zqtool", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [tool(name) for name in NAMES]


class Renderings:
    """The turns of the assistant that a template renders, as text from the user's on.

    Attributes:
        as_text: arguments are given as JSON text.
        prompt: what follows the user's text where the model answers.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._named_ids = False
        self._content: str | None = ""
        self._followed = False
        self._after_turns = ""  # what the template writes after the last turn of any conversation
        self.as_text = False
        self.variables: dict[str, Any] = {}
        self._always_prompts = False
        self.prompt = self._after_user([], True) or ""
        unasked = self._after_user([])
        self._always_prompts = bool(self.prompt.strip()) and unasked == self.prompt
        if unasked and not self._always_prompts:
            between = (self.earlier_turn(CONTENT) or unasked).partition(_LATER)[0]
            appended = (self.turn(CONTENT) or "").endswith(unasked)
            self._after_turns = unasked if appended and unasked.strip() not in between else ""

    def turn(self, content: str, reasoning: bool = False) -> str | None:
        """A turn that has no calls; None when the template refuses it."""
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if reasoning:
            message |= dict.fromkeys(REASONING_KEYS, REASON)
        return self._after_user([message])

    def earlier_turn(self, content: str) -> str | None:
        """A turn that another one of the user follows."""
        message = {"role": "assistant", "content": content}
        return self._after_user([message, {"role": "user", "content": _LATER}])

    def calls(self, *arguments: Mapping[str, Any], reasoning: bool = False) -> str | None:
        """A turn that calls the first tool, then the second; names that come before the
        one in a call's head, and ids, are slots."""
        message: dict[str, Any] = {"role": "assistant", "content": self._content}
        if reasoning:
            message |= dict.fromkeys(REASONING_KEYS, REASON)
        message["tool_calls"] = [
            {
                "id": f"functions.{NAMES[n]}:{n}" if self._named_ids else IDS[n],
                "type": "function",
                "function": {
                    "name": NAMES[n],
                    "arguments": json.dumps(own) if self.as_text else own,
                },
            }
            for n, own in enumerate(arguments)
        ]
        text = self._after_user([message])
        if text is None:
            return None
        for identity in IDS:
            text = text.replace(identity, ID_SLOT)
        return text

    def choose_form(self) -> bool:
        """Finds the form of calls that the template renders best; False when it renders
        none."""
        best, chosen = (0, False, 0), (False, False, self._content, False)
        forms = product(("", None), (False, True), (False, True), (False, True))
        for content, followed, as_text, named in forms:
            if followed and best[0] > 0:
                continue
            self.as_text, self._named_ids, self._content = as_text, named, content
            self._followed = followed
            turn = self.calls({KEYS[0]: VALUES[0]})
            # Some templates write a turn without text before the calls.
            score = _score(turn), not (as_text or named), -len(turn or "")
            if score > best and score[0] > 0:
                best, chosen = score, (as_text, named, content, followed)
        self.as_text, self._named_ids, self._content, self._followed = chosen
        return best[0] > 0

    def _after_user(
        self, messages: list[Mapping[str, Any]], generation: bool = False
    ) -> str | None:
        conversation: list[Mapping[str, Any]] = [{"role": "user", "content": USER}, *messages]
        followed = self._followed and bool(messages)
        if followed:
            # Some templates leave out calls that end a conversation.
            conversation.append({"role": "user", "content": _LATER})
        for tools in (TOOLS, None):
            try:
                text = self._render(conversation, tools, generation, **self.variables)
            except PomonaError:
                continue
            before, _, after = text.rpartition(USER)
            if followed:
                after = after.partition(_LATER)[0]
                after = after.removesuffix(same_end(before, after))
            return self._without_prompt(after) if messages else after
        return None

    def _without_prompt(self, turn: str) -> str:
        """Removes the prompt for another answer, which some templates write after any turn."""
        appended = self.prompt if self._always_prompts else self._after_turns
        if not appended:
            return turn
        own = turn.removesuffix(same_end(turn, appended))
        end = atoms(appended.lstrip())[0]
        ended = turn.endswith(appended) and end.startswith(("<", "["))
        return f"{own}{end}" if ended else own


_BEST = 3


def _score(text: str | None) -> int:
    """Scores how well a turn shows its call, from 0 (not at all) to 3."""
    if text is None or not all(x in text for x in (NAMES[0], KEYS[0], VALUES[0])):
        return 0
    if not text.find(NAMES[0]) < text.find(KEYS[0]) < text.find(VALUES[0]):
        return 0
    if _QUOTED.search(text):
        return 1
    return 2 if f"'{KEYS[0]}'" in text else _BEST
