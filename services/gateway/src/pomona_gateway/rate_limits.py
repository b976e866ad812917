"""How much each key may still use: pure, time is a parameter (monotonic seconds)."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from pomona.auth.api_keys import KeyLimits
from pomona.errors import RequestError

WINDOW_S = 60.0


@dataclass(slots=True)
class _Account:
    running: int = 0
    requests: deque[float] = field(default_factory=deque[float])
    tokens: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])


class RateLimits:
    """What every key used within the last minute. The name "" is everyone without a key."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def begin(self, name: str, limits: KeyLimits, now: float) -> None:
        """A request begins. Raises RequestError 429 when it is one too many."""
        account = self._account(name, now)
        if limits.concurrent is not None and account.running >= limits.concurrent:
            raise _refusal(f"{limits.concurrent} requests at once", 1)
        if limits.requests is not None and len(account.requests) >= limits.requests:
            raise _refusal(f"{limits.requests} requests a minute", _left(account.requests[0], now))
        if limits.tokens is not None and sum(n for _, n in account.tokens) >= limits.tokens:
            raise _refusal(f"{limits.tokens} tokens a minute", _left(account.tokens[0][0], now))
        account.running += 1
        account.requests.append(now)

    def end(self, name: str, tokens: int, now: float) -> None:
        """A request that began has ended, after so many tokens of prompt and reply."""
        account = self._account(name, now)
        account.running -= 1
        account.tokens.append((now, tokens))

    def _account(self, name: str, now: float) -> _Account:
        account = self._accounts.setdefault(name, _Account())
        while account.requests and now - account.requests[0] >= WINDOW_S:
            account.requests.popleft()
        while account.tokens and now - account.tokens[0][0] >= WINDOW_S:
            account.tokens.popleft()
        return account


def _left(oldest: float, now: float) -> int:
    return max(1, math.ceil(oldest + WINDOW_S - now))


def _refusal(limit: str, retry_after_s: int) -> RequestError:
    message = f"this key allows {limit}; try again in {retry_after_s} s"
    return RequestError(429, "rate_limit_exceeded", message, None, retry_after_s)
