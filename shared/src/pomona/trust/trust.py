"""A process's view of its cluster: the keys of its node, and the current roster."""

from __future__ import annotations

import fcntl
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona.errors import ConfigurationError, TrustError
from pomona.private_files import make_folder, write_privately
from pomona.trust import roster as rosters
from pomona.trust.node_keys import (
    NodeKeys,
    machine_digest,
    new_node_keys,
    read_node_keys,
    write_node_keys,
)
from pomona.trust.roster import Key, Member, Roster
from pomona.trust.signing import new_signing_key, public_signing_key

log = logging.getLogger(__name__)

FOLDER: Final = "trust"
ROSTER_FILE: Final = "roster.json"
CLUSTER_KEY_FILE: Final = "cluster.json"
LOCK_FILE: Final = "lock"

_SECRETS = TypeAdapter(dict[str, Key])

OnChange = Callable[[Roster, Roster], None]


class Trust:
    """Keys and roster of one node. Thread-safe.

    Args:
        folder: ``trust`` in the state folder of the node.
    """

    def __init__(self, folder: Path, keys: NodeKeys, roster: Roster) -> None:
        self.folder = folder
        self.keys = keys
        self._roster = roster
        self._stamp = _stamp(folder / ROSTER_FILE)
        self._encoded = (roster, rosters.encode(roster).decode())
        self._guard = threading.Lock()
        self._handlers: list[OnChange] = []

    @classmethod
    def open(cls, state_dir: Path, node: str, cluster: str = "") -> Trust:
        """Opens the keys and the roster of a node, and makes them at its first start.

        Of several processes that start at once, one makes them. A node that has the cluster's key
        may change its name.

        Args:
            node: name of the node.
            cluster: name of a new cluster; empty for its id.

        Raises ConfigurationError when the roster knows this node by another name, or the folder
        cannot be written. Raises TrustError when the key belongs to another machine.
        """
        folder = state_dir / FOLDER
        try:
            make_folder(folder)
            with _locked(folder):
                return cls._open_locked(folder, node, cluster)
        except OSError as error:
            raise ConfigurationError(
                f"{folder} cannot be written: {error.strerror}; set POMONA_STATE_DIR to a "
                "writable folder"
            ) from error

    @classmethod
    def _open_locked(cls, folder: Path, node: str, cluster: str) -> Trust:
        keys = read_node_keys(folder)
        if keys is None:
            keys = new_node_keys()
            write_node_keys(folder, keys)
        roster = _read_roster(folder)
        if roster is None:
            secret = new_signing_key()
            founder = Member(keys.id, keys.public, node, "head", since=time.time())
            roster = rosters.found(cluster, (founder,), secret)
            _write_secret(folder, secret)
            _write_roster(folder, roster)
        own = roster.by_id(keys.id)
        if own is not None and own.name != node:
            roster = _renamed(folder, roster, own, node)
        return cls(folder, keys, roster)

    @classmethod
    def load(cls, state_dir: Path) -> Trust | None:
        """Opens the keys and the roster of a node without making any; None when it has none.

        Raises TrustError when they cannot be used.
        """
        folder = state_dir / FOLDER
        keys, roster = read_node_keys(folder), _read_roster(folder)
        return None if keys is None or roster is None else cls(folder, keys, roster)

    @classmethod
    def joined(cls, state_dir: Path, roster: Roster) -> Trust:
        """Makes a node a member of another cluster, in place of the one it belonged to.

        The caller has checked the key of the roster. Raises TrustError when the roster is not
        valid, or this node, whose keys exist, is not in it.
        """
        folder = state_dir / FOLDER
        rosters.check(roster)
        with _locked(folder):
            keys = read_node_keys(folder)
            if keys is None or roster.by_id(keys.id) is None:
                raise TrustError(f"this node is not a member of {roster.name}")
            secret = _read_secret(folder, roster)
            if secret is None:
                (folder / CLUSTER_KEY_FILE).unlink(missing_ok=True)
            _write_roster(folder, roster)
        return cls(folder, keys, roster)

    @classmethod
    def replace_head(
        cls, state_dir: Path, public: str, secret: str, roster: Roster, cluster_secret: str
    ) -> Trust:
        """Makes a new machine take the place of a head that is lost, with its keys.

        Members admit it, because they know the key. Raises TrustError when the roster is not valid,
        or the keys are not those of a head in it.
        """
        folder = state_dir / FOLDER
        rosters.check(roster)
        member = roster.by_key(public)
        if (
            member is None
            or member.role != "head"
            or public_signing_key(cluster_secret) != roster.key
        ):
            raise TrustError(f"not the keys of a head of {roster.name}")
        keys = NodeKeys(public, secret, machine_digest(), socket.gethostname()[:256])
        make_folder(folder)
        with _locked(folder):
            write_node_keys(folder, keys)
            _write_secret(folder, cluster_secret)
            _write_roster(folder, roster)
        return cls(folder, keys, roster)

    # Reading ---------------------------------------------------------------------------------

    @property
    def roster(self) -> Roster:
        return self._roster

    @property
    def member(self) -> Member | None:
        """This node's entry in the roster; None when it was revoked."""
        return self._roster.by_id(self.keys.id)

    @property
    def has_cluster_key(self) -> bool:
        """Tells whether this node can change the roster."""
        return _read_secret(self.folder, self._roster) is not None

    def on_change(self, handler: OnChange) -> None:
        """Registers a handler for a new roster, called with the old and the new one, in whichever
        thread brought it."""
        self._handlers.append(handler)

    def remove_handler(self, handler: OnChange) -> None:
        if handler in self._handlers:
            self._handlers.remove(handler)

    # Changing --------------------------------------------------------------------------------

    def offer(self, offered: Roster) -> bool:
        """Takes a received roster, when it is a valid successor of the present one.

        It is written to the disk. Returns True when it was taken.
        """
        with self._guard:
            before = self._roster
            if rosters.newest(before, offered) is before:
                return False
            try:
                with _locked(self.folder):
                    kept = _read_roster(self.folder)
                    if kept is None or rosters.newest(kept, offered) is offered:
                        _write_roster(self.folder, offered)
            except OSError as error:
                log.error("the new roster cannot be kept: %s", error)
            self._roster = offered
        self._notify(before, offered)
        return True

    def offer_text(self, text: str) -> bool:
        """Takes a roster that a beacon carries (:meth:`encoded`), like :meth:`offer`.

        One that is not a successor makes this node look at its disk: another process of the node
        may have joined another cluster.
        """
        if not text or text == self.encoded():
            return False
        try:
            offered = rosters.decode(text.encode())
        except TrustError as error:
            log.warning("a roster is not taken: %s", error)
            return False
        return self.offer(offered) or self.reload()

    def encoded(self) -> str:
        """Returns the present roster as beacons carry it."""
        roster = self._roster
        if self._encoded[0] is not roster:
            self._encoded = (roster, rosters.encode(roster).decode())
        return self._encoded[1]

    def reload(self) -> bool:
        """Takes the roster of the disk, when another process has written a newer one."""
        with self._guard:
            stamp = _stamp(self.folder / ROSTER_FILE)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            before = self._roster
            try:
                found = _read_roster(self.folder)
            except TrustError as error:
                log.error("%s", error)
                return False
            if found is None or found == before:
                return False
            if found.cluster == before.cluster and rosters.newest(before, found) is before:
                return False
            self._roster = found
        self._notify(before, found)
        return True

    def change(self, change: Callable[[Roster], Roster]) -> Roster:
        """Changes the roster, signs the next version and keeps it. Returns it.

        Raises TrustError when the cluster's key is not on this machine, or the result is not valid.
        """
        with self._guard:
            before = self._roster
            with _locked(self.folder):
                current = _read_roster(self.folder) or before
                after = rosters.changed(current, self._secret(current), change)
                _write_roster(self.folder, after)
            self._roster = after
        self._notify(before, after)
        return after

    def rotate_cluster_key(self) -> Roster:
        """Replaces the cluster's key by a new one, signed by the old. Returns the new roster.

        Raises TrustError when the cluster's key is not on this machine.
        """
        with self._guard:
            before = self._roster
            with _locked(self.folder):
                current = _read_roster(self.folder) or before
                secret = new_signing_key()
                after = rosters.with_key(current, self._secret(current), secret)
                _write_secret(self.folder, secret, keep=True)
                _write_roster(self.folder, after)
            self._roster = after
        self._notify(before, after)
        return after

    def export_cluster_key(self) -> str:
        """Returns the cluster's secret key. Raises TrustError when it is not on this machine."""
        return self._secret(self._roster)

    def import_cluster_key(self, secret: str) -> Roster:
        """Takes the cluster's secret key and makes this node a head. Returns the new roster.

        Raises TrustError when it is not the key of this node's cluster, or the node was revoked.
        """
        try:
            public = public_signing_key(secret)
        except (ValueError, TypeError) as error:
            raise TrustError("not a valid key of a cluster") from error
        if public != self._roster.key:
            raise TrustError(f"not the key of {self._roster.name}, or one that was replaced")
        own = self.member
        if own is None:
            raise TrustError(f"this node is not a member of {self._roster.name}; join it first")
        with _locked(self.folder):
            _write_secret(self.folder, secret)
        return self.change(lambda x: rosters.with_member(x, replace(own, role="head")))

    def _secret(self, roster: Roster) -> str:
        secret = _read_secret(self.folder, roster)
        if secret is None:
            raise TrustError(
                f"the key of {roster.name} is not on this machine; run the command on its head, or "
                "import the key with `pomona cluster import`"
            )
        return secret

    def _notify(self, before: Roster, after: Roster) -> None:
        for handler in list(self._handlers):
            try:
                handler(before, after)
            except Exception:
                log.exception("a handler of a new roster failed")


def cluster_name(state_dir: Path | None) -> str:
    """Returns the name of the cluster that a state folder belongs to; empty for none."""
    if state_dir is None:
        return ""
    try:
        roster = _read_roster(state_dir / FOLDER)
    except TrustError:
        return ""
    return roster.name if roster is not None else ""


def forget(state_dir: Path) -> Path | None:
    """Moves a node's keys and roster aside, so that its next start makes new ones.

    For a machine whose state folder was copied from another one. Returns where they are now; None
    when there were none.
    """
    folder = state_dir / FOLDER
    if not folder.is_dir():
        return None
    aside = folder.with_name(f"{FOLDER}-{int(time.time())}")
    shutil.move(folder, aside)
    return aside


def _renamed(folder: Path, roster: Roster, own: Member, node: str) -> Roster:
    secret = _read_secret(folder, roster)
    if secret is None:
        raise ConfigurationError(
            f"this node is called {own.name} in its cluster, and POMONA_NODE says {node}: set it "
            f"to {own.name}, or rename the node on the cluster's head"
        )
    if roster.by_name(node) is not None:
        raise ConfigurationError(
            f"another node of the cluster is called {node}: set POMONA_NODE to another name"
        )
    member = replace(own, name=node)
    renamed = rosters.changed(roster, secret, lambda x: rosters.with_member(x, member))
    _write_roster(folder, renamed)
    return renamed


def _read_roster(folder: Path) -> Roster | None:
    path = folder / ROSTER_FILE
    try:
        return rosters.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrustError(f"{path} cannot be read: {error.strerror}") from error
    except TrustError as error:
        raise TrustError(f"{path}: {error}; restore it, or delete it and join again") from error


def _write_roster(folder: Path, roster: Roster) -> None:
    write_privately(folder / ROSTER_FILE, rosters.encode(roster))


def _read_secret(folder: Path, roster: Roster) -> str | None:
    """Returns the secret of the roster's present key, if it is in the folder."""
    try:
        return _SECRETS.validate_json((folder / CLUSTER_KEY_FILE).read_bytes()).get(roster.key)
    except (OSError, ValidationError):
        return None


def _write_secret(folder: Path, secret: str, keep: bool = False) -> None:
    """Writes the cluster's secret key by its public one.

    Args:
        keep: keeps the present one too. It signs until the roster with the new one is written.
    """
    path = folder / CLUSTER_KEY_FILE
    present: dict[str, str] = {}
    if keep and path.is_file():
        present = _SECRETS.validate_json(path.read_bytes())
    write_privately(path, orjson.dumps({**present, public_signing_key(secret): secret}))


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    with (folder / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stamp(path: Path) -> tuple[int, int, int]:
    """Identity of a file's content: inode, time and size, which every replacement changes."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size
