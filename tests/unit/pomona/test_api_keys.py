"""The store of API keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.auth.api_keys import KeyLimits, KeyStore
from pomona.errors import ConfigurationError


def test_key_is_found_until_another_process_revokes_it(tmp_path: Path) -> None:
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


def test_invalid_names_and_files_are_refused(tmp_path: Path) -> None:
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
