"""Posts to a Slack incoming webhook.

Slack answers 200 when it has the message. 408, 429, 5xx and network errors are transient and
retried; 429 says how long to wait. Every other status is permanent, like 404 ``no_service``
or 410 ``channel_is_archived``.
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors

The URL is a secret. It appears in no log and no error.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final, Literal

import httpx
import tenacity
from pydantic import SecretStr

log = logging.getLogger(__name__)

Outcome = Literal["delivered", "rejected", "given_up"]

FIRST_WAIT_S: Final = 0.5
MAX_WAIT_S: Final = 60.0
_ERROR_CODE = re.compile(r"[a-z_]{1,64}")
_backoff = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)


class _Transient(Exception):
    """A failure worth a retry, after ``retry_after_s`` when Slack sent one."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _Permanent(Exception):
    """A failure that no retry can cure."""


class SlackWebhook:
    """One incoming webhook.

    Args:
        deadline_s: timeout of one attempt.
        give_up_after_s: time for all attempts at one message.
    """

    def __init__(self, url: SecretStr, deadline_s: float, give_up_after_s: float) -> None:
        self._url = url
        self._give_up_after_s = give_up_after_s
        self._client = httpx.AsyncClient(timeout=deadline_s, follow_redirects=False)
        self.retries = 0

    async def post(self, message: dict[str, Any]) -> Outcome:
        """Retries until Slack accepts or rejects the message, or ``give_up_after_s`` passes."""
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            wait=_wait,
            stop=tenacity.stop_before_delay(self._give_up_after_s),
            before_sleep=self._before_sleep,
            reraise=True,
        )
        try:
            await attempts(self._attempt, message)
        except _Permanent as error:
            log.error("Slack rejected the alert permanently: %s", error)
            return "rejected"
        except _Transient as error:
            log.error("Slack did not accept the alert in time: %s", error)
            return "given_up"
        return "delivered"

    async def close(self) -> None:
        await self._client.aclose()

    async def _attempt(self, message: dict[str, Any]) -> None:
        try:
            response = await self._client.post(self._url.get_secret_value(), json=message)
        except httpx.TransportError as error:
            raise _Transient(type(error).__name__) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Permanent(type(error).__name__) from None
        status = response.status_code
        if response.is_success:
            return
        reason = f"status {status}, {_error_code(response.text)}"
        if status == 429:
            raise _Transient(reason, _retry_after_s(response))
        if status == 408 or status >= 500:
            raise _Transient(reason)
        raise _Permanent(reason)

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        self.retries += 1
        error = state.outcome.exception() if state.outcome else None
        log.warning(
            "Slack did not accept the alert; retrying",
            extra={"reason": str(error), "attempt": state.attempt_number},
        )


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Transient) and error.retry_after_s is not None:
        return error.retry_after_s
    return _backoff(state)


def _retry_after_s(response: httpx.Response) -> float | None:
    """Parses ``Retry-After`` in whole seconds, as Slack sends it. None leaves it to the backoff."""
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.isascii() and value.isdecimal() else None


def _error_code(text: str) -> str:
    """Returns Slack's error code. Any other body is not logged."""
    return text if _ERROR_CODE.fullmatch(text) else "the body is not a Slack error code"
