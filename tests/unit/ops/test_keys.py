"""``pomona keys`` creates, lists and revokes keys, and prints a key only once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pomona.auth.api_keys import KeyLimits, KeyStore
from pomona.auth.key_usage import UsageStore
from support.clusters import run_pomona


@pytest.mark.slow
def test_a_key_is_created_listed_and_revoked(tmp_path: Path) -> None:
    state = str(tmp_path)
    made = run_pomona(
        "keys", "create", "me", "--requests", "10", "--queue-share", "25", POMONA_STATE_DIR=state
    )
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    found = KeyStore(tmp_path).find(secret)
    assert found is not None
    assert (found.name, found.role, found.limits) == ("me", "user", KeyLimits(10, queue_share=25))

    listed = run_pomona("keys", "list", "--json", POMONA_STATE_DIR=state)
    [entry] = json.loads(listed.stdout)
    assert (entry["name"], entry["usage"]["requests"]) == ("me", 0)
    assert secret not in listed.stdout
    assert found.digest not in listed.stdout

    again = run_pomona("keys", "create", "me", POMONA_STATE_DIR=state)
    assert (again.returncode, again.stdout) == (78, "")
    gone = run_pomona("keys", "revoke", "me", POMONA_STATE_DIR=state)
    assert (gone.returncode, "key me is revoked" in gone.stdout) == (0, True)
    assert KeyStore(tmp_path).find(secret) is None
    revoked = run_pomona("keys", "revoke", "me", POMONA_STATE_DIR=state)
    assert revoked.returncode == 78
    assert "no key 'me'" in revoked.stderr


@pytest.mark.slow
def test_keys_are_in_the_gateways_state_folder_of_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    for content, folder in (
        ("state_dir = '{0}/all'", "all"),
        ("state_dir = '{0}/all'\n[gateway]\nstate_dir = '{0}/own'", "own"),
    ):
        file.write_text(content.format(tmp_path))
        made = run_pomona("keys", "create", "me", POMONA_SETTINGS=str(file))
        assert made.returncode == 0, made.stderr
        assert KeyStore(tmp_path / folder).find(made.stdout.strip())


@pytest.mark.slow
def test_usage_is_listed_and_a_new_key_of_the_same_name_starts_at_zero(
    tmp_path: Path,
) -> None:
    store = KeyStore(tmp_path)
    store.create("me")
    book = UsageStore(tmp_path)
    book.add(store.list()[0], 30, 4, 1e9)
    content = book.pending_write(store.list())
    assert content is not None
    book.write(content)
    listed = run_pomona("keys", "list", POMONA_STATE_DIR=str(tmp_path))
    assert "30/4" in listed.stdout
    assert "2001-09-09" in listed.stdout
    store.revoke("me")
    store.create("me")
    assert UsageStore(tmp_path).usage_of(store.list()[0]).requests == 0
    book.add(store.list()[0], 1, 1, 2e9)
    assert (book.pending_write(store.list()) or b"").count(b"requests") == 1


def test_two_gateways_count_side_by_side_and_a_failed_write_is_made_up_for(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.create("me")
    (key,) = store.list()
    draining, successor = UsageStore(tmp_path), UsageStore(tmp_path)
    for book, tokens in ((draining, 1), (successor, 10), (draining, 100)):
        book.add(key, tokens, 0, 1e9)
        content = book.pending_write(store.list())
        assert content is not None
        book.write(content)
    assert UsageStore(tmp_path).usage_of(key).prompt_tokens == 111
    successor.add(key, 1000, 0, 2e9)
    assert successor.pending_write(store.list()) is not None
    successor.restore()
    assert successor.usage_of(key).prompt_tokens == 1111
    content = successor.pending_write(store.list())
    assert content is not None
    successor.write(content)
    assert UsageStore(tmp_path).usage_of(key).prompt_tokens == 1111
