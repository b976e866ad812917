"""``llm`` (https://llm.datasette.io) works with the gateway in its extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from support.questions import ANSWER, MODEL, QUESTION

Command: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

GREEDY = ("-o", "temperature", "0")
MODELS = """
- model_id: pomona
  model_name: {model}
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
- model_id: missing
  model_name: no/such
  api_base: {url}/v1
- model_id: able
  model_name: double
  api_base: {double_url}/v1
  supports_tools: true
"""
WEATHER = """
def weather(city: str) -> str:
    "Weather of a city."
    return f"sunny in {city}"
"""


@pytest.fixture(scope="module")
def llm(url: str, double_url: str, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Returns a function that runs the command in a home of its own.

    Plugins are off: one is installed only for its data file, without its library.
    """
    home = tmp_path_factory.mktemp("llm")
    models = MODELS.format(model=MODEL, url=url, double_url=double_url)
    Path(home, "extra-openai-models.yaml").write_text(models)

    def run(*arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=os.environ | {"LLM_USER_PATH": str(home), "LLM_LOAD_PLUGINS": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done

    return run


def test_streamed_whole_and_asynchronous_answers_are_equal_and_report_usage(llm: Command) -> None:
    streamed = llm("-m", "pomona", QUESTION, *GREEDY, "-u")
    assert streamed.stdout.strip() == ANSWER
    assert re.search(r"Token usage: \d+ input, \d+ output", streamed.stderr)
    for option in ("--no-stream", "--async"):
        assert llm("-m", "pomona", QUESTION, *GREEDY, option).stdout.strip() == ANSWER


def test_a_conversation_continues_after_a_system_prompt(llm: Command) -> None:
    short = ("-o", "max_tokens", "8", *GREEDY)
    plain = llm("-m", "pomona", "What is your name?", *short).stdout
    renamed = llm("-m", "pomona", "What is your name?", "-s", "Your name is Bob.", *short).stdout
    assert plain != renamed
    assert llm("-c", "And mine?", *short).stdout.strip()


def test_an_answer_matches_its_schema(llm: Command) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    answer = llm("-m", "pomona", "--schema", json.dumps(schema), "Is grass red or green?")
    assert json.loads(answer.stdout)["colour"] in ("red", "green")


def test_a_function_is_called_and_its_result_is_read(llm: Command) -> None:
    """Uses the scripted model: SmolLM2 would not call by itself."""
    answer = llm("-m", "able", "--functions", WEATHER, "What is the weather in Rome?", "--td")
    assert answer.stdout.strip() == "It is sunny in Rome."
    assert "sunny in Rome" in answer.stderr


def test_an_error_names_the_unknown_model(llm: Command) -> None:
    assert "no/such" in llm("-m", "missing", QUESTION, fails=True).stderr
