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
class Conversation:
    """A response that is complete.

    Attributes:
        share: who may see it and go on with it.
        messages: up to it and with it.
        items: the input of its request.
        response: it, as its client got it.
    """

    share: str
    messages: Messages
    items: Messages
    response: dict[str, Any]
    characters: int


class ResponseStore:
    """Conversations by the id of their last response, the oldest forgotten first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Conversation] = OrderedDict()
        self._characters = 0

    def keep(
        self,
        share: str,
        messages: Sequence[dict[str, Any]],
        items: Sequence[dict[str, Any]],
        response: dict[str, Any],
    ) -> None:
        characters = sum(len(str(part)) for part in (*messages, *items, response))
        kept = Conversation(share, tuple(messages), tuple(items), response, characters)
        self._kept[response["id"]] = kept
        self._characters += characters
        while len(self._kept) > MAX_CONVERSATIONS or self._characters > MAX_CHARACTERS:
            _, forgotten = self._kept.popitem(last=False)
            self._characters -= forgotten.characters

    def find(self, response: str, share: str) -> Conversation | None:
        kept = self._kept.get(response)
        return kept if kept is not None and kept.share == share else None

    def forget(self, response: str, share: str) -> bool:
        """Whether it was there."""
        kept = self.find(response, share)
        if kept is None:
            return False
        del self._kept[response]
        self._characters -= kept.characters
        return True
