"""Conversations that clients go on with by the id of the last response. In memory only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

MAX_CONVERSATIONS = 4096
MAX_CHARACTERS = 64 << 20

Messages: TypeAlias = tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    share: str
    messages: Messages
    characters: int


class Conversations:
    """The messages up to and including each response, the oldest forgotten first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._characters = 0

    def keep(self, response: str, share: str, messages: Sequence[dict[str, Any]]) -> None:
        """Remember; ``share`` is who may go on with it."""
        characters = sum(len(str(message)) for message in messages)
        self._kept[response] = _Kept(share, tuple(messages), characters)
        self._characters += characters
        while len(self._kept) > MAX_CONVERSATIONS or self._characters > MAX_CHARACTERS:
            _, forgotten = self._kept.popitem(last=False)
            self._characters -= forgotten.characters

    def find(self, response: str, share: str) -> Messages | None:
        kept = self._kept.get(response)
        return kept.messages if kept is not None and kept.share == share else None
