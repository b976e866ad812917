"""Resubmits requests whose pipeline failed: attempts, their limits and their deadlines. Pure.

A request runs as a series of attempts, each in one epoch of a pipeline. When an attempt ends
before the reply does, the request waits for a route and is submitted again::

    submit --> running --last token--> done
                ^  |
          route |  | epoch failed, link broken, tokens lost
                |  v
              waiting --no attempt left, or a deadline--> failed

Times are monotonic seconds, passed in by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from pomona.errors import RequestError
from pomona_gateway.pipeline.router import Route

RETRY_AFTER_S = 2
MOST_ATTEMPTS = 64
"""Attempts before a request fails although each brought it on."""


@dataclass(frozen=True, slots=True)
class RecoveryLimits:
    """Limits of one request.

    Attributes:
        first_token_s: seconds from the request to its first token.
        token_s: seconds between two tokens.
        recovery_s: seconds a request waits for a route after its pipeline failed.
        max_attempts: attempts in a row without a new token before the request fails.
    """

    first_token_s: float
    token_s: float
    recovery_s: float
    max_attempts: int


@dataclass(slots=True)
class Attempts:
    """Attempts of one request.

    Attributes:
        opened: when the request arrived.
        waiting_since: when the current wait, for a route or for a token, started.
        number: number of the current attempt from 0; of the next one while there is no route.
        fruitless: attempts that have ended since the last one in which a result arrived.
        has_result: a result has arrived in the current attempt.
        route: route of the current attempt; None while the request waits for one.
        failed_route: route of the last attempt, which the next one must not use until it has been
            withdrawn.
    """

    opened: float
    waiting_since: float
    number: int = 0
    fruitless: int = 0
    has_result: bool = False
    route: Route | None = None
    failed_route: Route | None = None

    def is_current(self, attempt: int) -> bool:
        """Checks that an attempt is running."""
        return self.route is not None and attempt == self.number

    def start(self, route: Route, now: float) -> None:
        """Starts the current attempt on a route."""
        self.route = route
        self.waiting_since = now
        self.has_result = False

    def progress(self, now: float) -> None:
        """Records a result of the current attempt."""
        self.waiting_since = now
        self.has_result = True

    def end(self, now: float) -> None:
        """Ends the running attempt, if there is one. Its route stays excluded."""
        if self.route is None:
            return
        self.failed_route = self.route
        self.route = None
        self.waiting_since = now
        self.number += 1
        self.fruitless = 0 if self.has_result else self.fruitless + 1

    def allow_same_route(self) -> None:
        """Lets the next attempt use the route of the last one, which works or was withdrawn."""
        self.failed_route = None

    def may_use(self, route: Route) -> bool:
        """Checks that the next attempt may use a route. A new endpoint makes a route new."""
        failed = self.failed_route
        return failed is None or route != failed or route.endpoint != failed.endpoint

    def exhausted(self, limits: RecoveryLimits) -> RequestError | None:
        """Returns the error of a request that has no attempt left."""
        if self.fruitless < limits.max_attempts and self.number < MOST_ATTEMPTS:
            return None
        message = (
            f"the pipeline failed in each of {self.fruitless or self.number} epochs in which the "
            "request ran; see the stage workers' logs"
        )
        return RequestError(503, "pipeline_failed", message, None, RETRY_AFTER_S)

    def overdue(self, limits: RecoveryLimits, has_tokens: bool, now: float) -> RequestError | None:
        """Returns the error of a request that passed a deadline.

        Args:
            has_tokens: the first token of the reply has arrived.
        """
        if self.route is None:
            if now - self.waiting_since <= limits.recovery_s:
                return None
            return RequestError(
                503,
                "pipeline_lost",
                f"the pipeline failed and did not come back within {limits.recovery_s:g} s "
                "(POMONA_GATEWAY_RECOVERY_DEADLINE_S)",
                retry_after_s=RETRY_AFTER_S,
            )
        if has_tokens:
            if now - self.waiting_since <= limits.token_s:
                return None
            return RequestError(
                504,
                "token_timeout",
                f"no token arrived for {limits.token_s:g} s (POMONA_GATEWAY_TOKEN_DEADLINE_S)",
            )
        if now - self.opened <= limits.first_token_s:
            return None
        return RequestError(
            504,
            "first_token_timeout",
            f"no token arrived within {limits.first_token_s:g} s of the request "
            "(POMONA_GATEWAY_FIRST_TOKEN_DEADLINE_S)",
        )
