"""Stored responses, so that clients can retrieve them and continue their conversations.

They are kept in memory only.
"""

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
    """A conversation up to and including a complete response.

    Attributes:
        tenant: name of the key that may see and continue it.
        messages: all messages, in the form that chat templates read.
        items: input items of the last request.
        response: the response object that the client received.
        characters: approximate size.
    """

    tenant: str
    messages: Messages
    items: Messages
    response: dict[str, Any]
    characters: int


def missing_response(response_id: str) -> str:
    """Returns the error message for a response that is not in the store."""
    return f"there is no response {response_id!r}; it was not stored, or was deleted or evicted"


class ResponseStore:
    """Conversations by the id of their last response. Evicts the oldest when full."""

    def __init__(self) -> None:
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._characters = 0

    def put(
        self,
        tenant: str,
        messages: Sequence[dict[str, Any]],
        items: Sequence[dict[str, Any]],
        response: dict[str, Any],
    ) -> None:
        """Stores a conversation under the id of its last response."""
        characters = sum(len(str(part)) for part in (*messages, *items, response))
        conversation = Conversation(tenant, tuple(messages), tuple(items), response, characters)
        self._conversations[response["id"]] = conversation
        self._characters += characters
        while len(self._conversations) > MAX_CONVERSATIONS or self._characters > MAX_CHARACTERS:
            _, evicted = self._conversations.popitem(last=False)
            self._characters -= evicted.characters

    def get(self, response_id: str, tenant: str) -> Conversation | None:
        """Returns a conversation of this tenant; None if there is none."""
        conversation = self._conversations.get(response_id)
        if conversation is None or conversation.tenant != tenant:
            return None
        return conversation

    def delete(self, response_id: str, tenant: str) -> None:
        """Removes a conversation of this tenant, if there is one."""
        conversation = self.get(response_id, tenant)
        if conversation is not None:
            del self._conversations[response_id]
            self._characters -= conversation.characters
