"""The bounded log file of a process, and the last error in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona_ops.up.log_file import LogFile


def test_a_log_stays_within_its_limit_and_keeps_the_newest(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "a.log", max_bytes=1000)
    for number in range(200):
        log.write(b"line %03d of many\n" % number)
    log.close()
    kept = [path.read_bytes() for path in sorted((tmp_path / "logs").iterdir(), reverse=True)]
    assert len(kept) == 2
    assert all(len(part) <= 1000 for part in kept)
    assert b"".join(kept).endswith(b"line 198 of many\nline 199 of many\n")


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (b"", ""),
        (b'{"level": "info", "event": "ready"}\n', ""),
        (b'{"level": "error", "event": "broke"}\n{"level": "info", "event": "bye"}\n', "broke"),
        (b'Traceback\n  File "x"\nValueError: no\n\n', "ValueError: no"),
    ],
)
def test_the_last_error_is_the_newest(tmp_path: Path, output: bytes, error: str) -> None:
    log = LogFile(tmp_path / "a.log")
    log.write(output)
    assert log.last_error() == error
    log.clear_last_error()
    assert log.last_error() == ""
    log.close()


def test_a_log_that_was_cut_begins_its_next_life_on_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b'{"level": "info", "ev')
    log = LogFile(path)
    log.write(b'{"level": "info"}\n{"cut')
    log.begin_line()
    log.write(b"next\n")
    log.begin_line()
    log.close()
    again = LogFile(path)
    again.close()
    assert path.read_bytes() == b'{"level": "info", "ev\n{"level": "info"}\n{"cut\nnext\n'
