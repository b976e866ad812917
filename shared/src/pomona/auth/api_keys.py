"""API keys of the gateway, with their roles and limits.

A key is random, so only its SHA-256 is stored. The file is replaced atomically and readers
notice the change, so no restart is needed to create or revoke a key.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from pomona.errors import ConfigurationError
from pomona.private_files import write_privately

FILE_NAME = "keys.json"
PREFIX = "pomona-"
MAX_FILE_BYTES = 16 << 20

KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Role = Literal["user", "administrator"]
Limit = Annotated[int, Field(ge=1, le=2**31 - 1)] | None


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one key. None means no limit.

    Attributes:
        requests: requests per minute.
        tokens: prompt and reply tokens per minute.
        concurrent: requests in flight.
        queue_share: percentage of the head's queue that the key's requests may fill.
    """

    requests: Limit = None
    tokens: Limit = None
    concurrent: Limit = None
    queue_share: Annotated[int, Field(ge=1, le=100)] | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key.

    Attributes:
        digest: SHA-256 of the secret, hexadecimal.
        created: Unix time in seconds.
    """

    name: KeyName
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    role: Role = "user"
    created: float = 0.0
    limits: KeyLimits = field(default_factory=KeyLimits)

    @property
    def id(self) -> str:
        """Identity of the key, which no other key has, even one of the same name."""
        return f"key_{self.digest[:16]}"


log = logging.getLogger(__name__)

_KEYS = TypeAdapter(tuple[ApiKey, ...])


class KeyStore:
    """The keys of one cluster, in a file readable by its owner only."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE_NAME
        self._keys: tuple[ApiKey, ...] = ()
        self._version: tuple[int, int, int] | None = None
        self._damage: ConfigurationError | None = None

    def list(self) -> tuple[ApiKey, ...]:
        """Returns every key. Raises ConfigurationError when the file cannot be read."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._keys, self._version, self._damage = (), None, None
            return ()
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if version != self._version:
            self._version, self._damage = version, None
            try:
                self._keys = self._read(status.st_size)
            except (OSError, ValueError) as error:  # includes pydantic's ValidationError
                self._keys = ()
                self._damage = ConfigurationError(
                    f"{self.path} cannot be read as a list of keys: {_first_line(error)}; restore "
                    "it, or delete it and create the keys anew"
                )
                log.error("%s", self._damage)
        if self._damage is not None:
            raise self._damage
        return self._keys

    def _read(self, size: int) -> tuple[ApiKey, ...]:
        if size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        return _KEYS.validate_json(self.path.read_bytes())

    def find(self, secret: str) -> ApiKey | None:
        """Returns the key with this secret. The time taken does not depend on the secret."""
        digest = _digest(secret)
        found = None
        for key in self.list():
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def create(self, name: str, role: Role = "user", limits: KeyLimits | None = None) -> str:
        """Creates a key and returns its secret, which cannot be recovered later.

        Raises ConfigurationError when the name is taken or not valid.
        """
        if any(key.name == name for key in self.list()):
            raise ConfigurationError(
                f"a key named {name!r} exists already; revoke it, or choose another name"
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(name, _digest(secret), role, time.time(), limits or KeyLimits())
        try:
            self._write(_KEYS.validate_json(orjson.dumps((*self.list(), key))))
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False)[0]
            raise ConfigurationError(f"the key is not valid: {detail['msg']}") from error
        return secret

    def revoke(self, name: str) -> None:
        """Deletes a key. Raises ConfigurationError when no key has this name."""
        left = tuple(key for key in self.list() if key.name != name)
        if len(left) == len(self.list()):
            raise ConfigurationError(f"there is no key {name!r}")
        self._write(left)

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        write_privately(self.path, orjson.dumps(keys, option=orjson.OPT_INDENT_2))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _first_line(error: Exception) -> str:
    """Returns the reason without the file's content."""
    if isinstance(error, ValidationError):
        detail = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, detail['loc']))} {detail['msg']}".strip()
    return str(error)
