"""Limits of a key hold within every minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.auth.api_keys import KeyLimits, KeyStore
from pomona.errors import ConfigurationError, RequestError
from pomona_gateway.rate_limits import RateLimits


def refused(allowances: RateLimits, limits: KeyLimits, now: float) -> int:
    with pytest.raises(RequestError) as caught:
        allowances.begin("k", limits, now)
    assert caught.value.status == 429
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_requests_a_minute_free_up_one_by_one() -> None:
    allowances, limits = RateLimits(), KeyLimits(requests=2)
    allowances.begin("k", limits, 0.0)
    allowances.begin("k", limits, 10.0)
    assert refused(allowances, limits, 20.5) == 40
    allowances.begin("k", limits, 60.0)
    assert refused(allowances, limits, 60.5) == 10


def test_tokens_a_minute_are_counted_when_a_request_ends() -> None:
    allowances, limits = RateLimits(), KeyLimits(tokens=100)
    allowances.begin("k", limits, 0.0)
    allowances.begin("k", limits, 0.0)
    allowances.end("k", 100, 5.0)
    assert refused(allowances, limits, 6.0) == 59
    allowances.begin("k", limits, 65.0)


def test_requests_at_once_are_those_not_ended() -> None:
    allowances, limits = RateLimits(), KeyLimits(concurrent=1)
    allowances.begin("k", limits, 0.0)
    allowances.begin("other", limits, 0.0)
    assert refused(allowances, limits, 0.0) == 1
    allowances.end("k", 5, 1.0)
    allowances.begin("k", limits, 1.0)


def test_a_key_is_found_until_it_is_revoked_by_another_process(tmp_path: Path) -> None:
    reader, writer = KeyStore(tmp_path), KeyStore(tmp_path)
    secret = writer.create("alice", "administrator", KeyLimits(requests=5))
    found = reader.find(secret)
    assert found is not None
    assert (found.name, found.role, found.limits.requests) == ("alice", "administrator", 5)
    assert reader.find(secret + "x") is None
    assert secret not in writer.path.read_text()
    assert writer.path.stat().st_mode & 0o077 == 0
    writer.revoke("alice")
    assert reader.find(secret) is None


def test_keys_that_cannot_be_are_refused(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.create("alice")
    with pytest.raises(ConfigurationError, match="already"):
        store.create("alice")
    with pytest.raises(ConfigurationError):
        store.create("no name")
    with pytest.raises(ConfigurationError, match="no key"):
        store.revoke("bob")
    store.path.write_text("{")
    with pytest.raises(ConfigurationError, match=r"keys\.json"):
        store.list()
