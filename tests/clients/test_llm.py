"""``llm`` (https://llm.datasette.io), told of the gateway by its extra-openai-models.yaml."""

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

STILL = ("-o", "temperature", "0")
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
    """Runs the command in a home of its own, without plugins: one that is installed here for
    its data file would want a library that is not."""
    home = tmp_path_factory.mktemp("llm")
    written = MODELS.format(model=MODEL, url=url, double_url=double_url)
    Path(home, "extra-openai-models.yaml").write_text(written)

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


def test_answers_streamed_whole_and_asynchronously_and_counts(llm: Command) -> None:
    streamed = llm("-m", "pomona", QUESTION, *STILL, "-u")
    assert streamed.stdout.strip() == ANSWER
    assert re.search(r"Token usage: \d+ input, \d+ output", streamed.stderr)
    for way in ("--no-stream", "--async"):
        assert llm("-m", "pomona", QUESTION, *STILL, way).stdout.strip() == ANSWER


def test_a_conversation_goes_on_after_a_system_prompt(llm: Command) -> None:
    short = ("-o", "max_tokens", "8", *STILL)
    plain = llm("-m", "pomona", "What is your name?", *short).stdout
    told = llm("-m", "pomona", "What is your name?", "-s", "Your name is Bob.", *short).stdout
    assert plain != told
    assert llm("-c", "And mine?", *short).stdout.strip()


def test_a_schema_holds_the_answer(llm: Command) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    answer = llm("-m", "pomona", "--schema", json.dumps(schema), "Is grass red or green?")
    assert json.loads(answer.stdout)["colour"] in ("red", "green")


def test_a_function_is_called_and_its_result_is_read(llm: Command) -> None:
    """A scripted model stands in: SmolLM2 would not call by itself."""
    answer = llm("-m", "able", "--functions", WEATHER, "What is the weather in Rome?", "--td")
    assert answer.stdout.strip() == "It is sunny in Rome."
    assert "sunny in Rome" in answer.stderr


def test_errors_say_what_is_wrong(llm: Command) -> None:
    assert "no/such" in llm("-m", "missing", QUESTION, fails=True).stderr
