"""Members and logs over HTTP: a gateway beside a real head, as the page's Nodes panel uses it."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pomona.auth.api_keys import KeyStore
from pomona.transport import use
from pomona_gateway.dashboard import log_lines
from pomona_gateway.http.openapi import DOCUMENT
from support.node_machine import Machine, door_answers
from support.ports import free_port
from support.processes import ServiceProcess
from support.waiting import wait_until

WITHIN_S = 90.0
"""Seconds in which a command of the gateway starts a Python and ends."""
PATHS = (
    ("GET", "nodes"),
    ("POST", "nodes/invite"),
    ("POST", "nodes/approve"),
    ("POST", "nodes/revoke"),
    ("GET", "logs"),
)


class Head:
    """A head with discovery and a gateway that requires keys."""

    def __init__(self, machine: Machine, url: str, user: str, administrator: str) -> None:
        self.machine = machine
        self.url = f"{url}/api/pomona/v1"
        self.user = user
        self.administrator = administrator

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return httpx.request(
            method,
            f"{self.url}/{path}",
            json=body if method == "POST" else None,
            headers={"x-api-key": self.administrator, **headers},
            timeout=WITHIN_S,
            trust_env=False,
        )

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.ask("POST", path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def nodes(self) -> dict[str, Any]:
        answer = self.ask("GET", "nodes")
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def head(folder: Path) -> Generator[Head]:
    machine = Machine(folder, "head")
    store = KeyStore(machine.state)
    user, administrator = store.create("user"), store.create("boss", "administrator")
    port = free_port()
    variables = {
        **machine.variables,
        "POMONA_GATEWAY_PORT": str(port),
        "POMONA_GATEWAY_REQUIRE_KEY": "true",
    }
    url = f"http://127.0.0.1:{port}"
    gateway = ServiceProcess("gateway", folder / "gateway.log", variables)
    with machine.discovery(), gateway:
        wait_until(lambda: door_answers(machine) and _answers(url), "head and gateway run", 60.0)
        yield Head(machine, url, user, administrator)
    use(None)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _asking(head: Head) -> list[dict[str, Any]]:
    """Waits for machines that ask to join and show digits."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [x for x in head.nodes()["waiting"] if x["digits"]]
        return bool(found)

    wait_until(look, "a machine shows its digits", WITHIN_S)
    return found


def test_a_machine_is_invited_joins_and_is_revoked(head: Head, folder: Path) -> None:
    invited = head.post("nodes/invite")
    assert re.fullmatch(r"pomona join pom1-[a-z2-7]+", invited["command"])
    assert invited["commands"][-1].endswith("pomona up")
    assert invited["running"]
    mini = Machine(folder, "mini")
    assert mini.json("join", invited["command"].split()[-1])["state"] == "joined"
    wait_until(lambda: "mini" in {x["name"] for x in head.nodes()["members"]}, "mini is a member")
    found = head.nodes()
    assert found["is_head"]
    assert found["heads"] == ["head"]
    [own] = [x for x in found["members"] if x["here"]]
    assert (own["name"], own["role"]) == ("head", "head")
    assert head.post("nodes/revoke", name="mini")["revoked"] == "mini"
    assert [x["name"] for x in head.nodes()["members"]] == ["head"]
    again = head.ask("POST", "nodes/revoke", {"name": "mini"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "refused")
    assert "mini is not a member; members: head" in again.json()["error"]["message"]


def test_a_machine_that_asks_shows_its_digits_and_is_approved(head: Head, folder: Path) -> None:
    studio = Machine(folder, "studio")
    joining = studio.start("join", f"127.0.0.1:{head.machine.door}", "--yes", "--wait", "120")
    try:
        [asked] = _asking(head)
        assert asked["name"] == "studio"
        blind = head.ask("POST", "nodes/approve", {"name": "studio"})
        assert blind.status_code == 409, "nobody is let in without digits"
        assert head.post("nodes/approve", name="studio", digits=asked["digits"])["state"] == (
            "joined"
        )
        output, _ = joining.communicate(timeout=WITHIN_S)
        assert joining.returncode == 0, output
        assert asked["digits"] in output.replace(" ", "")
    finally:
        joining.kill()
        joining.wait(30)
    assert "studio" in {x["name"] for x in head.nodes()["members"]}


def test_other_digits_refuse_the_machine(head: Head, folder: Path) -> None:
    air = Machine(folder, "air")
    joining = air.start("join", f"127.0.0.1:{head.machine.door}", "--yes", "--wait", "120")
    try:
        _asking(head)
        answer = head.post("nodes/approve", name="air", digits="000 000")
        assert answer["state"] == "denied"
        joining.communicate(timeout=WITHIN_S)
        assert joining.returncode == 1
    finally:
        joining.kill()
        joining.wait(30)
    assert "air" not in {x["name"] for x in head.nodes()["members"]}


def test_logs_are_the_newest_lines_in_the_order_of_time(head: Head) -> None:
    found = head.ask("GET", "logs?lines=5").json()
    assert found["node"] == "head"
    # Both services of this test write to files of their own, as a service manager has them do.
    assert {"gateway", "head"} <= set(found["processes"])
    assert 0 < len(found["lines"]) <= 5
    times = [line["at"] for line in found["lines"]]
    assert times == sorted(times)
    own = head.ask("GET", "logs?process=gateway").json()["lines"]
    assert {line["process"] for line in own} == {"gateway"}
    unknown = head.ask("GET", "logs?process=nosuch")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "no_logs")
    assert head.ask("GET", "logs?lines=0").status_code == 400


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_only_an_administrator_may_and_no_page_of_another_origin(
    head: Head, method: str, path: str
) -> None:
    assert head.ask(method, path, {}, **{"x-api-key": ""}).status_code == 401
    user = head.ask(method, path, {}, **{"x-api-key": head.user})
    assert (user.status_code, user.json()["error"]["code"]) == (403, "not_allowed")
    foreign = head.ask(method, path, {}, origin="https://evil.example")
    if method == "POST":
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "origin_not_allowed")
    else:
        assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_the_openapi_document_describes_it(method: str, path: str) -> None:
    described = DOCUMENT["paths"][f"/api/pomona/v1/{path}"][method.lower()]
    assert described["summary"]
    assert {"401", "403"} <= described["responses"].keys()


@pytest.mark.parametrize("name", ["--yes", "", "a b", "-x", "a" * 201])
def test_no_name_is_read_as_an_option(head: Head, name: str) -> None:
    for path in ("nodes/approve", "nodes/revoke"):
        assert head.ask("POST", path, {"name": name}).status_code == 400


def test_the_logs_of_up_come_first(tmp_path: Path) -> None:
    assert log_lines.log_folder(tmp_path) != tmp_path / "logs" or not any(
        (tmp_path / "logs").glob("*.log")
    )
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "gateway.log").write_text('{"time":"2026-01-02T03:04:05Z"}\nplain\n')
    assert log_lines.log_folder(tmp_path) == tmp_path / "logs"
    found = log_lines.read_logs("mac", tmp_path, "", 10)
    assert [(x.process, x.level, x.text) for x in found.lines] == [
        ("gateway", "error", ""), ("gateway", "text", "plain"),
    ]  # fmt: skip
