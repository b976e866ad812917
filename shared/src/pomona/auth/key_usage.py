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

    Each write adds the counts since the last one to the file: a gateway that finishes its
    requests and its successor count side by side. No other process may write.
    """

    def __init__(self, state_dir: Path) -> None:
        """Raises ConfigurationError when the file exists and cannot be read."""
        self.path = state_dir / FILE_NAME
        self._counted: dict[str, KeyUsage] = {}
        self._before: tuple[dict[str, KeyUsage], dict[str, KeyUsage]] = ({}, {})
        self._usages = self._read()

    def _read(self) -> dict[str, KeyUsage]:
        try:
            return _USAGES.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise ConfigurationError(
                f"{self.path} cannot be read as usage of keys: {error}; "
                "delete it to reset the counters"
            ) from error

    def usage_of(self, key: ApiKey) -> KeyUsage:
        written, counted = self._usages.get(key.digest), self._counted.get(key.digest)
        return _sum(written or KeyUsage(), counted or KeyUsage())

    def add(self, key: ApiKey, prompt_tokens: int, reply_tokens: int, now: float) -> None:
        """Counts a finished request of a key. ``now`` is Unix time in seconds."""
        before = self._counted.get(key.digest, KeyUsage())
        self._counted[key.digest] = _sum(before, KeyUsage(1, prompt_tokens, reply_tokens, now))

    def pending_write(self, keys: Iterable[ApiKey]) -> bytes | None:
        """Returns the new content of the file, or None when nothing changed since the last call.

        Drops the usage of keys that are not in ``keys``. Raises ConfigurationError when the file
        cannot be read.
        """
        if not self._counted:
            return None
        written = self._read()
        totals = {
            key.digest: _sum(
                written.get(key.digest, KeyUsage()), self._counted.get(key.digest, KeyUsage())
            )
            for key in keys
            if key.digest in written or key.digest in self._counted
        }
        self._before, self._usages = (written, self._counted), totals
        self._counted = {}
        return orjson.dumps(self._usages)

    def write(self, content: bytes) -> None:
        """Replaces the file. Raises OSError, after which :meth:`restore` is due."""
        write_privately(self.path, content)

    def restore(self) -> None:
        """Counts what the last write, which failed, should have added with the next one."""
        self._usages, lost = self._before
        for digest, usage in lost.items():
            self._counted[digest] = _sum(usage, self._counted.get(digest, KeyUsage()))


def _sum(one: KeyUsage, other: KeyUsage) -> KeyUsage:
    return KeyUsage(
        one.requests + other.requests,
        one.prompt_tokens + other.prompt_tokens,
        one.reply_tokens + other.reply_tokens,
        max(one.last, other.last),
    )
