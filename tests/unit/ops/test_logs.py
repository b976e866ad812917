"""``pomona logs`` prints JSON logs for people."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

import orjson
import pytest

from pomona.errors import ConfigurationError
from pomona.log_tail import log_files, parse_line
from pomona_ops.commands.logs import formatted, parse_since
from support.clusters import pomona, run_pomona
from support.waiting import wait_until


def write(folder: Path, process: str, *lines: tuple[str, str, str]) -> Path:
    """Writes a log; each line is the second of a minute, a level and an event."""
    path = folder / "logs" / f"{process}.log"
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("ab") as file:
        for second, level, event in lines:
            entry = {
                "time": f"2026-01-02T03:04:{second}.000+00:00", "level": level,
                "service": process, "node": "mac", "event": event, "epoch": 7,
            }  # fmt: skip
            file.write(orjson.dumps(entry) + b"\n")
    return path


def logs(folder: Path, *arguments: str) -> str:
    done = run_pomona("logs", *arguments, POMONA_STATE_DIR=str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_logs_of_all_services_are_merged_by_time(tmp_path: Path) -> None:
    write(tmp_path, "gateway", ("01", "info", "first"), ("05", "warning", "third"))
    write(tmp_path, "planner", ("03", "info", "second"))
    lines = logs(tmp_path).splitlines()
    assert [line.split()[3] for line in lines] == ["first", "second", "WARNING"]
    assert [line.split()[2] for line in lines] == ["gateway", "planner", "gateway"]
    assert lines[0].endswith("epoch=7")


@pytest.mark.slow
def test_a_service_a_process_a_level_and_a_time_select_lines(tmp_path: Path) -> None:
    write(tmp_path, "gateway", ("01", "info", "early"), ("05", "error", "late"))
    write(tmp_path, "stage_worker.0", ("02", "info", "zero"))
    write(tmp_path, "stage_worker.1", ("03", "info", "one"))
    assert logs(tmp_path, "stage_worker").count("\n") == 2
    assert "one" in logs(tmp_path, "stage_worker.1")
    assert "zero" not in logs(tmp_path, "stage-worker.1")
    assert "early" not in logs(tmp_path, "gateway", "--level", "warning")
    since = logs(tmp_path, "gateway", "--since", "2026-01-02T03:04:04+00:00")
    assert ("late" in since, "early" in since) == (True, False)
    assert logs(tmp_path, "--since", "10m") == ""


@pytest.mark.slow
def test_a_rotated_log_is_read_from_its_older_half_on(tmp_path: Path) -> None:
    path = write(tmp_path, "gateway", ("01", "info", "older"))
    path.rename(path.with_name("gateway.log.1"))
    write(tmp_path, "gateway", ("02", "info", "newer"))
    assert logs(tmp_path).index("older") < logs(tmp_path).index("newer")


@pytest.mark.slow
def test_text_that_is_not_json_keeps_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "gateway", ("01", "info", "before"))
    with path.open("ab") as file:
        file.write(b"Fatal Python error: Segmentation fault\n")
    write(tmp_path, "gateway", ("02", "info", "after"))
    assert [x.split()[3] for x in logs(tmp_path).splitlines()] == ["before", "Fatal", "after"]
    assert parse_line('["no object"]', "gateway", 3.0).at == 3.0


def test_an_unknown_service_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    write(tmp_path, "gateway", ("01", "info", "x"))
    with pytest.raises(ConfigurationError, match="there are: gateway"):
        log_files(tmp_path / "logs", "nosuch")
    with pytest.raises(ConfigurationError, match="pomona up"):
        log_files(tmp_path / "empty")


@pytest.mark.slow
def test_follow_prints_new_lines_across_a_rotation(tmp_path: Path) -> None:
    path = write(tmp_path, "gateway", ("01", "info", "one"))
    output = tmp_path / "output"
    with output.open("wb") as file:
        following = subprocess.Popen(
            pomona("logs", "--follow", "--since", "2026-01-01"),
            env={"POMONA_STATE_DIR": str(tmp_path), "HOME": str(tmp_path)},
            stdout=file,
        )
    try:
        wait_until(lambda: "one" in output.read_text(), "the first line")
        write(tmp_path, "gateway", ("02", "info", "two"))
        path.rename(path.with_name("gateway.log.1"))
        write(tmp_path, "gateway", ("03", "info", "three"))
        write(tmp_path, "planner", ("04", "info", "four"))
        wait_until(lambda: "four" in output.read_text(), "the line of a new service")
    finally:
        following.terminate()
        following.wait(60)
    assert [x.split()[3] for x in output.read_text().splitlines()] == [
        "one", "two", "three", "four",
    ]  # fmt: skip


def test_an_exception_follows_its_line_indented() -> None:
    raw = orjson.dumps(
        {"time": "2026-01-02T03:04:05+00:00", "level": "error", "event": "bad", "exception": "a\nb"}
    )
    assert formatted(parse_line(raw.decode(), "gateway", 0.0)).plain.endswith(
        "ERROR bad\n    a\n    b"
    )


@pytest.mark.parametrize(
    ("text", "age_s"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1.5h", 5400)]
)
def test_an_age_is_a_valid_since(text: str, age_s: float) -> None:
    assert parse_since(text, 1e9) == 1e9 - age_s


def test_a_time_of_today_and_a_date_are_valid_since() -> None:
    now = datetime(2026, 1, 2, 15, 0).timestamp()
    assert parse_since("14:05", now) == datetime(2026, 1, 2, 14, 5).timestamp()
    assert parse_since("2026-01-01", now) == datetime(2026, 1, 1).timestamp()
    with pytest.raises(ConfigurationError, match="is not a valid time"):
        parse_since("yesterday", now)
