"""What each API key has used, in a file that outlives the gateway that counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from pomona.auth.api_keys import ApiKey, write_privately
from pomona.errors import ConfigurationError

FILE_NAME = "key_usage.json"

Total = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """Since the key was made. ``last`` is Unix time in seconds, 0 for never."""

    requests: Total = 0
    prompt_tokens: Total = 0
    reply_tokens: Total = 0
    last: float = 0.0


_USAGES = TypeAdapter(dict[str, KeyUsage])


class UsageStore:
    """The usage of every key, by its digest: a new key of an old name begins at nought.

    One process counts, with :meth:`add`, and writes; others only read.
    """

    def __init__(self, state_dir: Path) -> None:
        """Raises ConfigurationError when the file is there and cannot be read."""
        self.path = state_dir / FILE_NAME
        self._changed = False
        try:
            self._usages = _USAGES.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            self._usages = {}
        except (OSError, ValidationError) as error:
            raise ConfigurationError(
                f"{self.path} cannot be read as usage of keys: {error}; "
                "delete it to count from nought"
            ) from error

    def usage_of(self, key: ApiKey) -> KeyUsage:
        return self._usages.get(key.digest, KeyUsage())

    def add(self, key: ApiKey, prompt_tokens: int, reply_tokens: int, now: float) -> None:
        """A request of the key has ended. ``now``: Unix time in seconds."""
        before = self.usage_of(key)
        self._usages[key.digest] = KeyUsage(
            before.requests + 1,
            before.prompt_tokens + prompt_tokens,
            before.reply_tokens + reply_tokens,
            now,
        )
        self._changed = True

    def pending_write(self, keys: Iterable[ApiKey]) -> bytes | None:
        """What the file should hold, without revoked keys; None when it holds that."""
        if not self._changed:
            return None
        self._changed = False
        known = {key.digest for key in keys}
        self._usages = {digest: x for digest, x in self._usages.items() if digest in known}
        return orjson.dumps(self._usages)

    def write(self, content: bytes) -> None:
        """Replace the file. Raises OSError."""
        write_privately(self.path, content)
