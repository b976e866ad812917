"""``pomona keys``: what it prints, and what it never prints."""

from __future__ import annotations

import json
from pathlib import Path

from clusters import run_pomona
from pomona.keys import KeyStore


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    state = str(tmp_path)
    made = run_pomona("keys", "create", "me", "--requests", "10", POMONA_STATE_DIR=state)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    found = KeyStore(tmp_path).find(secret)
    assert found is not None
    assert (found.name, found.role, found.limits.requests) == ("me", "user", 10)

    listed = run_pomona("keys", "list", "--json", POMONA_STATE_DIR=state)
    assert [key["name"] for key in json.loads(listed.stdout)] == ["me"]
    assert secret not in listed.stdout
    assert found.digest not in listed.stdout

    again = run_pomona("keys", "create", "me", POMONA_STATE_DIR=state)
    assert (again.returncode, again.stdout) == (78, "")
    assert run_pomona("keys", "revoke", "me", POMONA_STATE_DIR=state).returncode == 0
    assert KeyStore(tmp_path).find(secret) is None
    gone = run_pomona("keys", "revoke", "me", POMONA_STATE_DIR=state)
    assert gone.returncode == 78
    assert "no key 'me'" in gone.stderr
