"""Keys and roster of a node on its disk."""

from __future__ import annotations

import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pomona import host
from pomona.errors import ClonedKeyError, ConfigurationError, TrustError
from pomona.trust import Member, NodeKeys, Roster, Trust
from pomona.trust import roster as rosters
from pomona.trust.node_keys import new_node_keys, write_node_keys
from pomona.trust.trust import forget


def as_member(keys: NodeKeys, name: str) -> Member:
    return Member(keys.id, keys.public, name, "member")


def joined(head: Trust, folder: Path, name: str) -> Trust:
    """Returns a second node of the head's cluster."""
    second = Trust.open(folder, name)
    roster = head.change(lambda x: rosters.with_member(x, as_member(second.keys, name)))
    return Trust.joined(folder, roster)


def test_the_first_start_makes_a_key_and_a_roster_of_one_for_the_owner_only(
    tmp_path: Path,
) -> None:
    trust = Trust.open(tmp_path, "mac")
    assert [x.name for x in trust.roster.members] == ["mac"]
    assert trust.member is not None
    assert trust.member.role == "head"
    rosters.check(trust.roster)
    assert stat.S_IMODE((tmp_path / "trust").stat().st_mode) == 0o700
    for name in ("node.json", "roster.json", "cluster.json"):
        assert stat.S_IMODE((tmp_path / "trust" / name).stat().st_mode) == 0o600


def test_the_next_start_finds_the_same_key_and_roster(tmp_path: Path) -> None:
    first = Trust.open(tmp_path, "mac")
    again = Trust.open(tmp_path, "mac")
    assert (again.keys, again.roster) == (first.keys, first.roster)
    loaded = Trust.load(tmp_path)
    assert loaded is not None
    assert loaded.keys == first.keys
    assert Trust.load(tmp_path / "elsewhere") is None


@pytest.mark.slow
def test_services_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pomona.trust import Trust\n"
        "print(Trust.open(Path(sys.argv[1]), 'mac').roster.signature)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(5)
    ]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1


def test_a_key_of_another_machine_is_refused_and_both_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "hardware_uuid", lambda: "old")
    (tmp_path / "trust").mkdir()
    write_node_keys(tmp_path / "trust", replace(new_node_keys(), host="old-mac"))
    monkeypatch.setattr(host, "hardware_uuid", lambda: "new")
    with pytest.raises(ClonedKeyError, match=r"old-mac.*pomona keys new") as refused:
        Trust.open(tmp_path, "mac")
    assert refused.value.here in str(refused.value)
    assert forget(tmp_path) is not None
    assert Trust.open(tmp_path, "mac").member is not None


def test_a_mac_is_told_apart_by_its_hardware_uuid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = '  "IOPlatformUUID" = "8C9B1C84-3F6D-5E9A-B9F4-0A1B2C3D4E5F"\n'

    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess((), 0, printed, "")

    monkeypatch.setattr(host, "SYSTEM", "darwin")
    monkeypatch.setattr(subprocess, "run", run)
    host.hardware_uuid.cache_clear()
    try:
        assert host.hardware_uuid() == "8C9B1C84-3F6D-5E9A-B9F4-0A1B2C3D4E5F"
    finally:
        host.hardware_uuid.cache_clear()


def test_a_change_of_the_head_reaches_a_member_and_stays_on_its_disk(tmp_path: Path) -> None:
    head = Trust.open(tmp_path / "head", "head", "home")
    second = joined(head, tmp_path / "second", "second")
    heard: list[tuple[int, int]] = []
    second.on_change(lambda old, new: heard.append((old.version, new.version)))
    third = new_node_keys()
    roster = head.change(lambda x: rosters.with_member(x, as_member(third, "third")))
    assert second.offer(roster)
    assert not second.offer(roster)
    assert heard == [(2, 3)]
    assert Trust.open(tmp_path / "second", "second").roster == roster


def test_another_process_of_the_node_finds_the_new_roster_on_the_disk(tmp_path: Path) -> None:
    head = Trust.open(tmp_path / "head", "head")
    second = joined(head, tmp_path / "second", "second")
    other_process = Trust.open(tmp_path / "second", "second")
    assert not other_process.reload()
    second.offer(head.change(lambda x: x))
    assert other_process.reload()
    assert other_process.roster == head.roster


def test_only_the_machine_with_the_clusters_key_changes_the_roster(tmp_path: Path) -> None:
    head = Trust.open(tmp_path / "head", "head")
    second = joined(head, tmp_path / "second", "second")
    assert not second.has_cluster_key
    with pytest.raises(TrustError, match="not on this machine"):
        second.change(lambda x: x)


def test_an_exported_key_makes_another_node_the_head_of_a_cluster_whose_head_is_dead(
    tmp_path: Path,
) -> None:
    head = Trust.open(tmp_path / "head", "head")
    second = joined(head, tmp_path / "second", "second")
    secret = head.export_cluster_key()
    with pytest.raises(TrustError, match="not the key of"):
        second.import_cluster_key("00" * 32)
    roster = second.import_cluster_key(secret)
    assert second.member is not None
    assert second.member.role == "head"
    assert head.offer(roster)


def test_a_new_key_of_the_cluster_reaches_a_node_that_was_off(tmp_path: Path) -> None:
    head = Trust.open(tmp_path / "head", "head")
    second = joined(head, tmp_path / "second", "second")
    head.rotate_cluster_key()
    roster = head.rotate_cluster_key()
    assert second.offer(roster)
    assert head.change(lambda x: x).version == roster.version + 1


def test_a_revoked_node_knows_that_it_is_not_a_member(tmp_path: Path) -> None:
    head = Trust.open(tmp_path / "head", "head")
    second = joined(head, tmp_path / "second", "second")
    assert second.offer(head.change(lambda x: rosters.without_member(x, second.keys.id)))
    assert second.member is None


def test_the_holder_of_the_clusters_key_may_change_its_name_and_no_other(tmp_path: Path) -> None:
    head = Trust.open(tmp_path / "head", "head")
    joined(head, tmp_path / "second", "second")
    assert Trust.open(tmp_path / "head", "study").roster.by_name("study") is not None
    with pytest.raises(ConfigurationError, match="another node of the cluster"):
        Trust.open(tmp_path / "head", "second")
    with pytest.raises(ConfigurationError, match="POMONA_NODE"):
        Trust.open(tmp_path / "second", "kitchen")


def test_a_node_joins_only_a_roster_that_lists_its_key(tmp_path: Path) -> None:
    head = Trust.open(tmp_path / "head", "head")
    Trust.open(tmp_path / "second", "second")
    with pytest.raises(TrustError, match="not a member"):
        Trust.joined(tmp_path / "second", head.roster)
    forged: Roster = replace(head.roster, version=9)
    with pytest.raises(TrustError, match="not signed"):
        Trust.joined(tmp_path / "second", forged)
