"""Rate limits of API keys. Pure: time is a parameter, in monotonic seconds."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from pomona.auth.api_keys import KeyLimits
from pomona.errors import RequestError

WINDOW_S = 60.0


@dataclass(slots=True)
class _Usage:
    """Usage of a key within the window.

    Attributes:
        running: requests that have not ended.
        requests: start of each request.
        tokens: end of each request, and its tokens.
    """

    running: int = 0
    requests: deque[float] = field(default_factory=deque[float])
    tokens: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])


class RateLimits:
    """Counts the requests and tokens of every key within the last minute.

    Requests without a key count as those of the key "".
    """

    def __init__(self) -> None:
        self._usage: dict[str, _Usage] = {}

    def admit(self, key: str, limits: KeyLimits, now: float) -> None:
        """Counts a request that starts. Raises RequestError (429) when it exceeds a limit."""
        usage = self._current(key, now)
        if limits.concurrent is not None and usage.running >= limits.concurrent:
            raise _refusal(f"{limits.concurrent} requests at once", 1)
        if limits.requests is not None and len(usage.requests) >= limits.requests:
            raise _refusal(
                f"{limits.requests} requests a minute", _expires_in(usage.requests[0], now)
            )
        if limits.tokens is not None and sum(n for _, n in usage.tokens) >= limits.tokens:
            raise _refusal(f"{limits.tokens} tokens a minute", _expires_in(usage.tokens[0][0], now))
        usage.running += 1
        usage.requests.append(now)

    def enter(self, key: str, now: float) -> None:
        """Counts the part of a request that goes on after its response, and is admitted with it."""
        self._current(key, now).running += 1

    def release(self, key: str, tokens: int, now: float) -> None:
        """Counts the end of an admitted request, with its tokens of prompt and reply."""
        usage = self._current(key, now)
        usage.running -= 1
        usage.tokens.append((now, tokens))

    def refund(self, key: str) -> None:
        """Takes back the newest request of a key, which the server could not serve."""
        usage = self._usage.get(key)
        if usage is not None and usage.requests:
            usage.requests.pop()

    def _current(self, key: str, now: float) -> _Usage:
        usage = self._usage.setdefault(key, _Usage())
        while usage.requests and now - usage.requests[0] >= WINDOW_S:
            usage.requests.popleft()
        while usage.tokens and now - usage.tokens[0][0] >= WINDOW_S:
            usage.tokens.popleft()
        return usage


def _expires_in(oldest: float, now: float) -> int:
    """Returns the whole seconds until an entry leaves the window, at least 1."""
    return max(1, math.ceil(oldest + WINDOW_S - now))


def _refusal(limit: str, retry_after_s: int) -> RequestError:
    message = f"this key allows {limit}; try again in {retry_after_s} s"
    return RequestError(429, "rate_limit_exceeded", message, None, retry_after_s)
