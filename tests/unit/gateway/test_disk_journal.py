"""The journal on disk: what a slow, full or taken disk does to runs."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from pomona.messages.pipeline import Token
from pomona_gateway.runs.disk_journal import MAX_QUEUED_BYTES, DiskJournal
from pomona_gateway.runs.run import Run, RunOrigin, RunRequest
from support.waiting import wait_until

FOLDER = "journal"


@pytest.fixture
def journal(tmp_path: Path) -> Generator[DiskJournal]:
    journal = DiskJournal(tmp_path, "boot1", 1 << 20)
    yield journal
    journal.close()


def run(journal: DiskJournal, name: str, body: bytes = b"{}") -> Run:
    request = RunRequest("/v1/x", "", (), body)
    return Run(RunOrigin("request", name, "", "", "", False, 0.0, "", True, request), journal)


def path(journal: DiskJournal, name: str) -> Path:
    return journal.folder / f"{name}.run"


def has_tokens(journal: DiskJournal, name: str) -> bool:
    file = path(journal, name)
    return file.exists() and b'"tokens"' in file.read_bytes()


def test_events_are_read_back_in_their_order(journal: DiskJournal) -> None:
    made = run(journal, "run_a")
    journal.create(made)
    for n in range(100):
        journal.token(made, n % 2, Token("", 0, n // 2, n))
    wait_until(lambda: has_tokens(journal, "run_a"), "tokens")
    found = journal.read("run_a")
    assert found is not None
    assert [token.token for _, token in found.sequences.tokens] == list(range(100))
    journal.erase("run_a")
    wait_until(lambda: not path(journal, "run_a").exists(), "the end of the file")


def test_run_that_does_not_fit_has_no_file_and_others_go_on(journal: DiskJournal) -> None:
    large, small = run(journal, "run_l", b"x" * (1 << 20)), run(journal, "run_s")
    for made in (large, small):
        journal.create(made)
        journal.token(made, 0, Token("", 0, 0, 1))
    wait_until(lambda: has_tokens(journal, "run_s"), "tokens")
    assert not path(journal, "run_l").exists()


def test_queue_that_the_disk_does_not_take_costs_the_run_its_file(journal: DiskJournal) -> None:
    made = run(journal, "run_q", b"x" * (MAX_QUEUED_BYTES + 1))
    journal.create(made)
    journal.token(made, 0, Token("", 0, 0, 1))
    other = run(journal, "run_o")
    journal.create(other)
    wait_until(lambda: path(journal, "run_o").exists(), "the other run")
    assert not path(journal, "run_q").exists()


def test_folder_that_vanishes_stops_no_run(journal: DiskJournal) -> None:
    made = run(journal, "run_v")
    journal.create(made)
    wait_until(lambda: path(journal, "run_v").exists(), "a file")
    for file in journal.folder.iterdir():
        file.unlink()
    journal.folder.rmdir()
    journal.token(made, 0, Token("", 0, 0, 1))
    journal.create(run(journal, "run_w"))
    journal.folder.mkdir()

    def takes_runs_again() -> bool:
        journal.create(run(journal, "run_x"))
        return path(journal, "run_x").exists()

    wait_until(takes_runs_again, "a run with a file")


def test_lock_tells_whether_the_owner_of_a_run_lives(journal: DiskJournal, tmp_path: Path) -> None:
    other = DiskJournal(tmp_path, "boot2", 1 << 20)
    assert journal.is_alive("boot2")
    assert other.is_alive("boot1")
    assert not journal.is_alive("boot1"), "its own runs are not another's"
    other.close()
    assert not journal.is_alive("boot2")
    assert not list(journal.folder.glob("boot2*"))
