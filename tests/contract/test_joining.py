"""Machines join a real head by the commands, with an invitation or with six digits.

All run on this machine: each has its own state folder, and the head's discovery service listens on
a loopback address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import orjson
import pytest

from pomona.transport import use
from pomona.trust import roster
from pomona.trust.invitation import Invitation, decode_invitation, encode_invitation
from pomona.trust.join_ledger import FILE
from support.node_machine import Machine, door_answers
from support.ports import free_port
from support.waiting import wait_until


@pytest.fixture
def head(tmp_path: Path) -> Generator[Machine]:
    machine = Machine(tmp_path, "head")
    with machine.discovery():
        wait_until(lambda: door_answers(machine), "the doorstep is open")
        yield machine
    use(None)


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], Machine]:
    return lambda name: Machine(tmp_path, name)


def line_of(head: Machine) -> str:
    done = head.run("invite")
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"pomona join (pom1-[a-z2-7]+)\n", done.stdout)
    assert found, done.stdout
    assert found[1] in done.stderr, "the commands for the other machine are printed"
    return found[1]


def test_one_line_makes_a_machine_a_member(
    head: Machine, machine: Callable[[str], Machine]
) -> None:
    line = line_of(head)
    studio, mini = machine("studio"), machine("mini")
    done = studio.run("join", line)
    assert done.returncode == 0, done.stderr
    assert "joined" in done.stdout
    assert "pomona up" in done.stdout
    assert head.members() == studio.members() == {"head", "studio"}
    assert studio.trust().roster.cluster == head.trust().roster.cluster
    assert not studio.trust().has_cluster_key

    again = studio.json("join", line)
    assert again["state"] == "joined", "the line may be pasted again on the same machine"
    used = mini.json("join", line, code=1)
    assert used["code"] == "used"
    assert "studio" in used["message"]

    report = head.json("nodes")
    assert [(x["name"], x["role"], x["online"]) for x in report["members"]] == [
        ("head", "head", True),
        ("studio", "member", False),
    ]
    assert report["members"][1]["invited_by"] == "head"


def test_each_useless_invitation_says_why(head: Machine, machine: Callable[[str], Machine]) -> None:
    studio = machine("studio")
    good = decode_invitation(line_of(head))
    wrong = encode_invitation(Invitation(good.addresses, good.key_hash, bytes(16)))
    assert studio.json("join", wrong, code=1)["code"] == "wrong"
    other = encode_invitation(Invitation(good.addresses, bytes(16), good.secret))
    assert studio.json("join", other, code=1)["code"] == "wrong_key"
    nobody = Invitation((("127.0.0.1", free_port()),), good.key_hash, good.secret)
    assert studio.json("join", encode_invitation(nobody), code=2)["code"] == "no_answer"
    assert studio.run("join", "pom1-abc").returncode == 78

    ledger = head.state / FILE
    content = orjson.loads(ledger.read_bytes())
    content["invitations"][0]["expires_at"] = 1.0
    ledger.write_bytes(orjson.dumps(content))
    assert studio.json("join", encode_invitation(good), code=1)["code"] == "expired"
    line = line_of(head)
    assert head.json("invite", "--cancel") == {"cancelled": 1}
    assert studio.json("join", line, code=1)["code"] == "cancelled"
    assert head.members() == {"head"}


def test_digits_are_compared_before_an_uninvited_machine_joins(
    head: Machine, machine: Callable[[str], Machine]
) -> None:
    studio = machine("studio")
    joining = studio.start("join", f"127.0.0.1:{head.door}", "--yes", "--wait", "60")
    try:

        def asks() -> list[dict[str, Any]]:
            return [x for x in head.json("nodes")["waiting"] if x["digits"]]

        wait_until(asks, "the machine asks")
        waiting = asks()[0]
        assert waiting["name"] == "studio"
        assert head.json("approve", "studio", "--digits", "000 000", code=1)["state"] == "denied"
        output, _ = joining.communicate(timeout=60)
        assert joining.returncode == 1, output
        assert f"{waiting['digits'][:3]} {waiting['digits'][3:]}" in output
    finally:
        joining.kill()
        joining.wait(60)
    joining = studio.start("join", f"127.0.0.1:{head.door}", "--yes", "--wait", "60")
    try:
        wait_until(asks, "the machine asks again")
        number = asks()[0]["digits"]
        assert head.json("approve", "studio", "--digits", number)["state"] == "joined"
        output, _ = joining.communicate(timeout=60)
        assert joining.returncode == 0, output
    finally:
        joining.kill()
        joining.wait(60)
    assert head.members() == studio.members() == {"head", "studio"}


def test_a_reinstalled_machine_takes_its_name_back_with_the_owner_s_consent(
    head: Machine, machine: Callable[[str], Machine]
) -> None:
    studio = machine("studio")
    assert studio.run("join", line_of(head)).returncode == 0
    old = studio.trust().keys.public
    assert studio.run("keys", "new").returncode == 0
    joining = studio.start("join", line_of(head), "--wait", "60")
    try:
        wait_until(lambda: head.json("nodes")["waiting"], "the machine asks")
        assert head.json("nodes")["waiting"][0]["holder"] == "studio"
        refused = head.run("approve", "studio")
        assert refused.returncode == 78
        assert "--replace" in refused.stderr
        assert head.json("approve", "studio", "--replace")["state"] == "joined"
        output, _ = joining.communicate(timeout=60)
        assert joining.returncode == 0, output
        assert old[:8] in output
        assert "pomona approve studio --replace" in output
    finally:
        joining.kill()
        joining.wait(60)
    current = head.trust().roster
    assert current.by_key(old) is None
    assert current.by_key(studio.trust().keys.public) is not None


def test_a_member_is_revoked_and_keys_are_rotated(
    head: Machine, machine: Callable[[str], Machine]
) -> None:
    studio, mini = machine("studio"), machine("mini")
    for one in (studio, mini):
        assert one.run("join", line_of(head)).returncode == 0
    assert head.run("revoke", "nobody").returncode == 78
    assert head.run("revoke", "head").returncode == 78
    assert studio.run("revoke", "mini").returncode == 78, "only a head revokes"
    assert head.json("revoke", "mini")["revoked"] == "mini"
    assert head.members() == {"head", "studio"}

    before = studio.trust().keys.public
    assert studio.json("keys", "rotate")["rotated"] == "node"
    after = studio.trust()
    assert after.keys.public != before
    assert after.member is not None
    assert after.member.name == "studio"
    assert head.trust().roster.by_key(after.keys.public) is not None
    assert head.trust().roster.by_key(before) is None

    known = after.roster
    assert head.json("keys", "rotate", "--cluster")["rotated"] == "cluster"
    newest = head.trust().roster
    assert newest.key != known.key
    assert roster.newest(known, newest) is newest, "a node that was off takes the new key"


def test_a_member_with_the_exported_key_becomes_a_head(
    head: Machine, machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    studio, stranger = machine("studio"), machine("stranger")
    assert studio.run("join", line_of(head)).returncode == 0
    file = tmp_path / "cluster.key"
    assert head.run("cluster", "export", str(file)).returncode == 0
    assert file.stat().st_mode & 0o077 == 0
    assert head.run("cluster", "export", str(file)).returncode == 78, "nothing is overwritten"
    without_node = json.loads(file.read_bytes()) | {"node_public": "", "roster": ""}
    old_file = tmp_path / "old.key"
    old_file.write_text(json.dumps(without_node))
    assert stranger.run("cluster", "import", str(old_file)).returncode == 78
    assert studio.run("cluster", "import", str(file)).returncode == 0
    assert studio.trust().has_cluster_key
    assert studio.run("revoke", "head").returncode == 0
    assert studio.members() == {"studio"}


def test_a_new_machine_takes_the_place_of_a_head_that_is_lost(
    tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    head, studio, spare = machine("head"), machine("studio"), machine("spare")
    file = tmp_path / "cluster.key"
    with head.discovery():
        wait_until(lambda: door_answers(head), "the doorstep is open")
        assert studio.run("join", line_of(head)).returncode == 0
        with studio.discovery():
            assert head.run("cluster", "export", str(file)).returncode == 0
    version = head.trust().roster.version
    assert spare.json("cluster", "import", str(file))["version"] == version
    spare.variables |= {"POMONA_DISCOVERY_PEERS": studio.peer}
    with studio.discovery(), spare.discovery():
        wait_until(lambda: "spare" in studio.members(), "the member takes its new name", 60)
        assert spare.members() == {"spare", "studio"}
        mini = machine("mini")
        wait_until(lambda: door_answers(spare), "the doorstep is open")
        assert mini.run("join", line_of(spare)).returncode == 0
        wait_until(lambda: "mini" in studio.members(), "members follow the new head", 60)
    use(None)
    tiny = machine("tiny")
    other = json.loads(file.read_bytes()) | {"node_public": "0" * 64}
    file.write_text(json.dumps(other))
    assert tiny.run("cluster", "import", str(file)).returncode != 0
