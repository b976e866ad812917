"""The members of the cluster, for administrators: who is in, who asks, and what decides.

Reading is done here; every change is a ``pomona`` command, so that a page can do what the terminal
of the head can, in the same words, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pomona.errors import PomonaError, RequestError
from pomona.plain_text import plain_text
from pomona.trust import Trust
from pomona.trust.join_ledger import LedgerFile
from pomona.trust.membership import (
    MemberReport,
    WaitingReport,
    member_reports,
    waiting_reports,
)
from pomona_gateway.dashboard.pomona_commands import Finished, run_command
from pomona_gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

DEADLINE_S: Final = 150.0
"""Seconds that a command may take. An invitation may have to wait until services start again."""
REFUSED: Final = 1
"""Exit status of ``pomona approve`` when the digits differ."""
MAX_REASON: Final = 2000


@dataclass(frozen=True, slots=True)
class Membership:
    """Members, and who asks to join.

    Attributes:
        version: of the roster.
        is_head: this machine has the cluster's key, so that it may change the roster.
        heads: names of the members that may have it.
    """

    cluster: str
    version: int
    is_head: bool
    heads: tuple[str, ...]
    members: tuple[MemberReport, ...]
    waiting: tuple[WaitingReport, ...]


class MembershipCommands:
    """Reads and changes the roster of this gateway's node; one change at a time."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._folder = settings.trust_dir
        self._turn = asyncio.Lock()
        self._variables = {
            "POMONA_STATE_DIR": str(self._folder),
            "POMONA_NODE": settings.node,
            "POMONA_CLUSTER": settings.cluster,
            "POMONA_CONTROL_SUBSCRIBE": settings.control_subscribe,
            # The command then takes the endpoint above, whatever else runs on this machine.
            "POMONA_PORT": "",
        }

    def read(self, online: Set[str]) -> Membership:
        """Reads the roster and the requests to join. It takes milliseconds of file access.

        Args:
            online: names of the nodes whose discovery services send beacons.

        Raises:
            RequestError: this node has no keys, or they cannot be read (503).
        """
        try:
            trust = Trust.load(self._folder)
            if trust is None:
                raise RequestError(503, "no_roster", "this node has no keys of a cluster yet")
            requests = LedgerFile(self._folder).read().requests if trust.has_cluster_key else ()
        except PomonaError as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(503, "roster_unreadable", plain_text(str(error))) from error
        return Membership(
            trust.roster.name,
            trust.roster.version,
            trust.has_cluster_key,
            tuple(x.name for x in trust.roster.members if x.role == "head"),
            member_reports(trust, online),
            waiting_reports(trust, requests),
        )

    async def run(self, *arguments: str) -> dict[str, Any]:
        """Runs a command of membership and returns the JSON that it prints.

        Raises:
            RequestError: the command refuses (409), with its own words, or as
                :func:`~pomona_gateway.dashboard.pomona_commands.run_command`.
        """
        async with self._turn:
            done = await run_command(*arguments, deadline_s=DEADLINE_S, variables=self._variables)
        content = _content(done)
        if content is None:
            reason = plain_text(_reason(done))
            log.warning("pomona %s refuses", arguments[0], extra={"reason": reason})
            raise RequestError(409, "refused", reason)
        log.info("pomona %s ran for a page", arguments[0])
        return content


def _content(done: Finished) -> dict[str, Any] | None:
    if done.status not in (0, REFUSED):
        return None
    try:
        found = orjson.loads(done.output)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _reason(done: Finished) -> str:
    """Returns the last words of a command, which say what to do."""
    lines = done.errors.splitlines() or [f"the command ended with status {done.status}"]
    return lines[-1].removeprefix("pomona: ")[-MAX_REASON:]
