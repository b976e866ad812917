"""Usage counters of API keys, in a file that outlives the gateway process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from pomona.auth.api_keys import ApiKey
from pomona.errors import ConfigurationError
from pomona.private_files import write_privately

FILE_NAME = "key_usage.json"

Total = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """Totals since the key was created.

    Attributes:
        last: end of the last request, Unix time in seconds; 0 when there was none.
    """

    requests: Total = 0
    prompt_tokens: Total = 0
    reply_tokens: Total = 0
    last: float = 0.0


_USAGES = TypeAdapter(dict[str, KeyUsage])


class UsageStore:
    """Usage by key digest, so a new key that reuses an old name starts at zero.

    Only one process may call :meth:`add` and :meth:`write`; others only read.
    """

    def __init__(self, state_dir: Path) -> None:
        """Raises ConfigurationError when the file exists and cannot be read."""
        self.path = state_dir / FILE_NAME
        self._changed = False
        try:
            self._usages = _USAGES.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            self._usages = {}
        except (OSError, ValidationError) as error:
            raise ConfigurationError(
                f"{self.path} cannot be read as usage of keys: {error}; "
                "delete it to reset the counters"
            ) from error

    def usage_of(self, key: ApiKey) -> KeyUsage:
        return self._usages.get(key.digest, KeyUsage())

    def add(self, key: ApiKey, prompt_tokens: int, reply_tokens: int, now: float) -> None:
        """Counts a finished request of a key. ``now`` is Unix time in seconds."""
        before = self.usage_of(key)
        self._usages[key.digest] = KeyUsage(
            before.requests + 1,
            before.prompt_tokens + prompt_tokens,
            before.reply_tokens + reply_tokens,
            now,
        )
        self._changed = True

    def pending_write(self, keys: Iterable[ApiKey]) -> bytes | None:
        """Returns the new content of the file, or None when nothing changed since the last call.

        Drops the usage of keys that are not in ``keys``.
        """
        if not self._changed:
            return None
        self._changed = False
        known = {key.digest for key in keys}
        self._usages = {digest: x for digest, x in self._usages.items() if digest in known}
        return orjson.dumps(self._usages)

    def write(self, content: bytes) -> None:
        """Replaces the file. Raises OSError."""
        write_privately(self.path, content)
