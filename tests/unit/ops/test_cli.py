"""The arguments of the ``pomona`` command."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pomona import __version__
from pomona_ops.cli import app
from pomona_ops.cluster.ports import ClusterPorts
from pomona_ops.commands.topics import TOPICS, WIDTH
from support.clusters import run_pomona

RUNNER = CliRunner(env={"COLUMNS": "80", "POMONA_PORT": None})


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    done = RUNNER.invoke(app, list(arguments), env=environment, prog_name="pomona")
    return done.exit_code, done.output


def paths(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    children = getattr(command, "commands", {})
    return [path, *(x for name, child in children.items() for x in paths(child, (*path, name)))]


COMMANDS = paths(typer.main.get_command(app))


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_a_short_and_a_long_option_for_help(path: tuple[str, ...]) -> None:
    for option in ("-h", "--help"):
        code, output = run(*path, option)
        assert (code, "Usage: pomona" in output) == (0, True), output


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_flags_are_shown_without_a_type(path: tuple[str, ...]) -> None:
    assert "<bool>" not in run(*path, "--help")[1]


def test_the_version_is_printed() -> None:
    assert run("--version") == (0, f"pomona {__version__}\n")


@pytest.mark.slow
@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_explained_within_80_columns(topic: str) -> None:
    for name in (topic, topic.upper(), f"{topic}s"):
        code, output = run("help", name)
        assert (code, output.startswith(topic.upper() + "\n")) == (0, True)
        assert max(map(len, output.splitlines())) <= WIDTH


def test_help_lists_topics_explains_commands_and_refuses_other_words() -> None:
    assert all(f"\n  {topic} " in run("help")[1] for topic in TOPICS)
    assert "Usage: pomona status" in run("help", "status")[1]
    assert "Usage: pomona bench" in run("help", "bench")[1]
    code, output = run("help", "nosuch")
    assert (code, "neither a topic nor" in " ".join(output.split())) == (2, True)


@pytest.mark.slow
def test_an_environment_variable_names_the_port_and_the_option_overrides_it() -> None:
    done = run_pomona("status", POMONA_PORT="47000")
    assert (done.returncode, f":{ClusterPorts(47000).control_subscribe}" in done.stderr) == (
        2,
        True,
    )
    done = run_pomona("chat", "hello", "--port", "47100", POMONA_PORT="47000")
    assert (done.returncode, ":47100" in done.stderr) == (2, True)
    assert run("status", POMONA_PORT="many")[0] == 2


def test_an_empty_prompt_is_refused() -> None:
    code, output = run("chat", " ")
    assert (code, "the prompt is empty" in output) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_topics(shell: str) -> None:
    for words, expected in (("pomona st", "status"), ("pomona help ep", "epoch")):
        done = run_pomona(
            _POMONA_COMPLETE=f"complete_{shell}",
            COMP_WORDS=words,
            COMP_CWORD=str(words.count(" ")),
            _TYPER_COMPLETE_ARGS=words,
            _TYPER_COMPLETE_FISH_ACTION="get-args",
        )
        assert re.search(rf"\b{expected}\b", done.stdout), done.stdout + done.stderr
