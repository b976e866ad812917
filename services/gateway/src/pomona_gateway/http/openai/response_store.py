"""Stored responses, so that clients can retrieve them and continue their conversations.

They are kept in memory, and on disk where a folder is given: then they survive the gateway.
"""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pomona.private_files import write_privately
from pomona_gateway.runs.checked_lines import decode_line, encode_line

log = logging.getLogger(__name__)

MAX_CONVERSATIONS = 4096
MAX_CHARACTERS = 64 << 20
"""Limits of the responses in memory."""
FOLDER = "responses"
MAX_FILES = 1 << 14
MAX_QUEUED = 256
"""Maximum number of responses that wait for the disk. Beyond it one is kept in memory only."""

_SUFFIX = ".json"
_ID = re.compile(r"^resp_[0-9a-f]{32}$")

Messages: TypeAlias = tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation up to and including a response.

    Attributes:
        tenant: id of the key that may see and continue it.
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

    @property
    def is_complete(self) -> bool:
        """Checks that the conversation can be continued."""
        return self.response.get("status") in ("completed", "incomplete")


def missing_response(response_id: str) -> str:
    """Returns the error message for a response that is not in the store."""
    return f"there is no response {response_id!r}; it was not stored, or was deleted or evicted"


class ResponseStore:
    """Conversations by the id of their last response. Evicts the oldest when full.

    Args:
        folder: where responses are stored; None keeps them in memory only.
        max_bytes: maximum size of the folder.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = 0) -> None:
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._characters = 0
        self._folder = folder
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0
        self._queued = 0
        self._removing: set[str] = set()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="responses")
        if folder is not None:
            self._open(folder)

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
        self._keep(response["id"], conversation)
        self._write(response["id"], conversation)

    def get(self, response_id: str, tenant: str) -> Conversation | None:
        """Returns a conversation of this tenant; None if there is none."""
        conversation = self._conversations.get(response_id) or self._read(response_id)
        if conversation is None or conversation.tenant != tenant:
            return None
        return conversation

    def delete(self, response_id: str, tenant: str) -> None:
        """Removes a conversation of this tenant, if there is one."""
        conversation = self.get(response_id, tenant)
        if conversation is None:
            return
        self._forget(response_id)
        self._bytes -= self._sizes.pop(response_id, 0)
        if self._folder is not None:
            self._remove_file(response_id)

    def close(self) -> None:
        """Writes the queue."""
        self._writer.shutdown()

    def _keep(self, response_id: str, conversation: Conversation) -> None:
        self._forget(response_id)
        self._conversations[response_id] = conversation
        self._characters += conversation.characters
        while len(self._conversations) > MAX_CONVERSATIONS or self._characters > MAX_CHARACTERS:
            self._forget(next(iter(self._conversations)))

    def _forget(self, response_id: str) -> None:
        conversation = self._conversations.pop(response_id, None)
        if conversation is not None:
            self._characters -= conversation.characters

    # On disk ---------------------------------------------------------------------------

    def _open(self, folder: Path) -> None:
        """Lists the stored responses, oldest first. Without a folder the store is in memory."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            with os.scandir(folder) as entries:
                found = sorted(
                    (entry.stat().st_mtime, entry.name, entry.stat().st_size) for entry in entries
                )
        except OSError as error:
            self._folder = None
            log.warning("responses are kept in memory only", extra={"reason": str(error)})
            return
        for _, name, size in found:
            if _ID.match(name.removesuffix(_SUFFIX)):
                self._sizes[name.removesuffix(_SUFFIX)] = size
                self._bytes += size
            else:
                with suppress(OSError):
                    (folder / name).unlink()
        self._evict()

    def _write(self, response_id: str, conversation: Conversation) -> None:
        if self._folder is None or not _ID.match(response_id) or self._queued >= MAX_QUEUED:
            return
        self._bytes += conversation.characters - self._sizes.pop(response_id, 0)
        self._sizes[response_id] = conversation.characters
        self._do(lambda: write_privately(self._path(response_id), _encode(conversation)))
        self._evict()

    def _read(self, response_id: str) -> Conversation | None:
        """Reads a response that is not in memory: of a former gateway, or of one that ends."""
        if self._folder is None or not _ID.match(response_id) or response_id in self._removing:
            return None
        try:
            conversation = _decode(self._path(response_id).read_bytes())
        except OSError:
            return None
        if conversation is None or conversation.response.get("id") != response_id:
            log.warning("a stored response cannot be read", extra={"response": response_id})
            return None
        self._keep(response_id, conversation)
        return conversation

    def _evict(self) -> None:
        while self._bytes > self._max_bytes or len(self._sizes) > MAX_FILES:
            oldest, size = self._sizes.popitem(last=False)
            self._bytes -= size
            self._forget(oldest)
            self._remove_file(oldest)

    def _remove_file(self, response_id: str) -> None:
        """Removes a file after the writes that are queued; until then it is not read."""

        def unlink() -> None:
            try:
                self._path(response_id).unlink(missing_ok=True)
            finally:
                self._removing.discard(response_id)

        self._removing.add(response_id)
        self._do(unlink)

    def _path(self, response_id: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{response_id}{_SUFFIX}"

    def _do(self, work: Callable[[], None]) -> None:
        """Runs file operations in a thread, one after the other."""

        def run() -> None:
            try:
                work()
            except OSError as error:
                log.warning("cannot store a response", extra={"reason": str(error)})
            finally:
                self._queued -= 1

        self._queued += 1
        self._writer.submit(run)


def _encode(conversation: Conversation) -> bytes:
    return encode_line(
        {
            "tenant": conversation.tenant,
            "messages": conversation.messages,
            "items": conversation.items,
            "response": conversation.response,
        }
    )


def _decode(content: bytes) -> Conversation | None:
    """Returns the conversation of a file; None when it is damaged."""
    fields = decode_line(content)
    if fields is None:
        return None
    return Conversation(
        fields["tenant"],
        tuple(fields["messages"]),
        tuple(fields["items"]),
        fields["response"],
        len(content),
    )
