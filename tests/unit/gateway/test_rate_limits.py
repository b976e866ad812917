"""Rate limits of API keys."""

from __future__ import annotations

import pytest

from pomona.auth.api_keys import KeyLimits
from pomona.errors import RequestError
from pomona_gateway.rate_limits import RateLimits


def retry_after(rate_limits: RateLimits, limits: KeyLimits, now: float) -> int:
    with pytest.raises(RequestError) as caught:
        rate_limits.admit("k", limits, now)
    assert caught.value.status == 429
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_requests_leave_the_window_one_by_one() -> None:
    rate_limits, limits = RateLimits(), KeyLimits(requests=2)
    rate_limits.admit("k", limits, 0.0)
    rate_limits.admit("k", limits, 10.0)
    assert retry_after(rate_limits, limits, 20.5) == 40
    rate_limits.admit("k", limits, 60.0)
    assert retry_after(rate_limits, limits, 60.5) == 10


def test_tokens_a_minute_are_counted_when_a_request_ends() -> None:
    rate_limits, limits = RateLimits(), KeyLimits(tokens=100)
    rate_limits.admit("k", limits, 0.0)
    rate_limits.admit("k", limits, 0.0)
    rate_limits.release("k", 100, 5.0)
    assert retry_after(rate_limits, limits, 6.0) == 59
    rate_limits.admit("k", limits, 65.0)


def test_concurrent_requests_are_limited_for_each_key() -> None:
    rate_limits, limits = RateLimits(), KeyLimits(concurrent=1)
    rate_limits.admit("k", limits, 0.0)
    rate_limits.admit("other", limits, 0.0)
    assert retry_after(rate_limits, limits, 0.0) == 1
    rate_limits.release("k", 5, 1.0)
    rate_limits.admit("k", limits, 1.0)
