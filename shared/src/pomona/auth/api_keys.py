"""API keys: who may use the gateway, and how much.

A key is random, so its SHA-256 is all that is kept. The file is replaced as a whole, and
readers notice that it changed; nobody needs a restart to create or revoke a key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from pomona.errors import ConfigurationError

FILE_NAME = "keys.json"
PREFIX = "pomona-"

KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Role = Literal["user", "administrator"]
Limit = Annotated[int, Field(ge=1, le=2**31 - 1)] | None


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """None is no limit.

    Attributes:
        requests: a minute.
        tokens: of prompts and replies, a minute.
        concurrent: requests at once.
        queue_share: per cent of the queue at the head of a pipeline.
    """

    requests: Limit = None
    tokens: Limit = None
    concurrent: Limit = None
    queue_share: Annotated[int, Field(ge=1, le=100)] | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept. ``created`` is Unix time in seconds."""

    name: KeyName
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    role: Role = "user"
    created: float = 0.0
    limits: KeyLimits = field(default_factory=KeyLimits)


_KEYS = TypeAdapter(tuple[ApiKey, ...])


class KeyStore:
    """The keys of one cluster, in a file that only its owner reads."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE_NAME
        self._keys: tuple[ApiKey, ...] = ()
        self._version: tuple[int, int, int] | None = None

    def list(self) -> tuple[ApiKey, ...]:
        """Every key. Raises ConfigurationError when the file cannot be read."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._keys, self._version = (), None
            return ()
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if version != self._version:
            try:
                self._keys = _KEYS.validate_json(self.path.read_bytes())
            except (OSError, ValidationError) as error:
                raise ConfigurationError(
                    f"{self.path} cannot be read as a list of keys: {error}"
                ) from error
            self._version = version
        return self._keys

    def find(self, secret: str) -> ApiKey | None:
        """The key that ``secret`` is. Takes the same time whichever it is."""
        digest = _digest(secret)
        found = None
        for key in self.list():
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def create(self, name: str, role: Role = "user", limits: KeyLimits | None = None) -> str:
        """A new key's secret, which is told only this once.

        Raises ConfigurationError when the name is taken or no name.
        """
        if any(key.name == name for key in self.list()):
            raise ConfigurationError(f"there is a key {name!r} already; revoke it, or name another")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(name, _digest(secret), role, time.time(), limits or KeyLimits())
        try:
            self._write(_KEYS.validate_json(orjson.dumps((*self.list(), key))))
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False)[0]
            raise ConfigurationError(f"no such key can be: {detail['msg']}") from error
        return secret

    def revoke(self, name: str) -> None:
        """Raises ConfigurationError when there is no such key."""
        left = tuple(key for key in self.list() if key.name != name)
        if len(left) == len(self.list()):
            raise ConfigurationError(f"there is no key {name!r}")
        self._write(left)

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        write_privately(self.path, orjson.dumps(keys, option=orjson.OPT_INDENT_2))


def write_privately(path: Path, content: bytes) -> None:
    """Replace a file as a whole, for its owner's eyes only. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
