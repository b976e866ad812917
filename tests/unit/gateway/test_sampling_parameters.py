"""What a request leaves open is sampled as the model's makers recommend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pomona.models import read_facts
from pomona.models.sources import EMBEDDED_MODEL
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, sampling
from pomona_gateway.http.ollama.chat_request import OllamaChat, Options
from pomona_gateway.text import load_language_model
from support.models.tiny_model import write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


def recommend(folder: Path, **values: Any) -> dict[str, float]:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return dict(read_facts(str(folder)).sampling)


def drawn(folder: Path, **given: Any) -> tuple[float, float, int, float]:
    language = load_language_model(str(folder))
    found = sampling(SamplingParameters(model="m", **given), language, 1, None, None)
    return found.temperature, found.top_p, found.top_k, found.repetition_penalty


def test_a_request_has_what_it_says_then_what_the_makers_say_then_the_default(
    folder: Path,
) -> None:
    assert drawn(folder) == (1.0, 1.0, 0, 1.0)
    recommend(folder, temperature=0.6, top_k=20, repetition_penalty=1.05)
    assert drawn(folder) == (0.6, 1.0, 20, 1.05)
    assert drawn(folder, temperature=0.0, top_k=0, top_p=0.5) == (0.0, 0.5, 0, 1.05)


def test_what_cannot_be_sampled_is_no_recommendation(folder: Path) -> None:
    odd = {"temperature": -1, "top_p": 0, "top_k": -1, "min_p": "x", "repetition_penalty": True}
    assert recommend(folder, **odd) == {}
    assert recommend(folder, do_sample=False, temperature=0.7) == {"temperature": 0.0}


def test_ollamas_own_defaults_give_way_to_the_makers(folder: Path) -> None:
    asked = OllamaChat(model="m", messages=[], options=Options(top_p=0.5))
    found = asked.parameters("m", recommend(folder, temperature=0.6))
    assert (found.temperature, found.top_p, found.top_k) == (0.6, 0.5, 40)


def test_the_embedded_model_is_sampled_as_its_makers_do() -> None:
    facts = read_facts(EMBEDDED_MODEL)
    assert facts.sampling == {"temperature": 0.2, "top_p": 0.9}
