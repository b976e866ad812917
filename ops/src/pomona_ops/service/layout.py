"""Folders and versions of an installation: where the units, the software and the state lie.

``PREFIX/<version>`` holds each version with its packages, ``PREFIX/current`` is a link to the one
that runs, and ``PREFIX/previous`` to the one before. Units name ``current`` only, since macOS
keeps permissions by path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona.errors import ConfigurationError
from pomona_ops.commands.service import CURRENT, System

PREVIOUS: Final = "previous"
RECORD: Final = "installed.json"


@dataclass(frozen=True, slots=True)
class Installation:
    """Record of what ``pomona service install`` did, so that everything can be taken back.

    Attributes:
        made: folders and files that it made, parents first.
        made_account: it created the account.
    """

    role: str
    system: System
    user: str
    made: tuple[str, ...] = ()
    made_account: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of an installation.

    Attributes:
        root: folder below which all paths lie: ``/``, or another one for a trial.
        prefix: folder of the versions, as seen from ``root``.
    """

    root: Path = Path("/")
    prefix: Path = Path("/opt/pomona")

    def at(self, path: str | Path) -> Path:
        """Returns the real path of an absolute path as seen from ``root``."""
        return self.root / str(path).lstrip("/")

    @property
    def versions(self) -> Path:
        return self.at(self.prefix)

    @property
    def python(self) -> Path:
        """Interpreter of the version that runs."""
        return self.versions / CURRENT / "bin" / "python"

    @property
    def settings(self) -> Path:
        return self.at("/usr/local/etc/pomona/pomona.toml")

    @property
    def state(self) -> Path:
        return self.at("/usr/local/var/pomona")

    @property
    def logs(self) -> Path:
        return self.at("/usr/local/var/log/pomona")

    def units(self, system: System) -> Path:
        """Folder in which launchd or systemd looks for units."""
        is_mac = system == "launchd"
        return self.at("/Library/LaunchDaemons" if is_mac else "/etc/systemd/system")

    def rotation(self, system: System) -> Path:
        """File of the rotation of the logs."""
        is_mac = system == "launchd"
        return self.at("/etc/newsyslog.d/pomona.conf" if is_mac else "/etc/logrotate.d/pomona")

    def version(self, link: str = CURRENT) -> str:
        """Returns the version that a link names; empty without one."""
        try:
            return str((self.versions / link).readlink())
        except OSError:
            return ""

    def switch(self, version: str) -> None:
        """Makes another version the current one, at once. The one before becomes ``previous``.

        Raises ConfigurationError when that version is not installed.
        """
        if not (self.versions / version / "bin" / "python").exists():
            raise ConfigurationError(f"version {version} is not installed in {self.versions}")
        before = self.version()
        if before == version:
            return
        self._link(CURRENT, version)
        if before:
            self._link(PREVIOUS, before)

    def _link(self, name: str, target: str) -> None:
        fresh = self.versions / f".{name}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(self.versions / name)

    def read(self) -> Installation | None:
        """Returns the record of the installation; None without one. Raises ConfigurationError."""
        path = self.versions / RECORD
        try:
            return _INSTALLATION.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}") from error

    def write(self, installation: Installation) -> None:
        path = self.versions / RECORD
        fresh = path.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(installation))
        fresh.replace(path)


_INSTALLATION = TypeAdapter(Installation)
