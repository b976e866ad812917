"""Downloads of whole models to this machine, started by an administrator."""

from __future__ import annotations

import asyncio

from pomona.errors import RequestError
from pomona_gateway.dashboard.pomona_commands import run_command

MAX_PULLS = 2
MAX_REMEMBERED = 16
DEADLINE_S = 24 * 3600.0
"""Seconds after which a pull is ended. It resumes when it is started again."""
RETRY_AFTER_S = 30


class Pulls:
    """Pulls that run or have failed. The files on the disk tell how far a pull is.

    Attributes:
        reasons: why each failed pull failed, by source; None while it runs.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, source: str) -> None:
        """Starts a pull; does nothing when it runs already.

        Raises:
            RequestError: two others run (429).
        """
        if source in self.reasons and self.reasons[source] is None:
            return
        if len(self._tasks) >= MAX_PULLS:
            message = f"{MAX_PULLS} models are being pulled already; wait for one of them"
            raise RequestError(429, "too_many_pulls", message, retry_after_s=RETRY_AFTER_S)
        while len(self.reasons) >= MAX_REMEMBERED:
            ended = [x for x, reason in self.reasons.items() if reason is not None]
            self.reasons.pop(ended[0])
        self.reasons[source] = None
        task = asyncio.create_task(self._pull(source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pull(self, source: str) -> None:
        try:
            done = await run_command(
                "models", "pull", "--json", "--", source, deadline_s=DEADLINE_S
            )
        except RequestError as error:
            self.reasons[source] = error.message
            return
        if done.status:
            lines = done.errors.splitlines() or [f"it ended with status {done.status}"]
            self.reasons[source] = lines[-1].removeprefix("pomona models: ")
        else:
            self.reasons.pop(source, None)

    async def close(self) -> None:
        """Ends the running pulls."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
