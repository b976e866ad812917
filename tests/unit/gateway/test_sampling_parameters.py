"""Sampling defaults: of the request, of the model's makers, of the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pomona.models import read_facts
from pomona.models.sources import EMBEDDED_MODEL
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, build_sampling
from pomona_gateway.http.ollama.chat_request import OllamaChat, Options
from pomona_gateway.text import load_language_model
from support.models.tiny_model import write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


def recommend(folder: Path, **values: Any) -> dict[str, float]:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return dict(read_facts(str(folder)).sampling)


def sampling(folder: Path, **parameters: Any) -> tuple[float, float, int, float]:
    language = load_language_model(str(folder))
    found = build_sampling(SamplingParameters(model="m", **parameters), language, 1, None, None)
    return found.temperature, found.top_p, found.top_k, found.repetition_penalty


@pytest.mark.slow
def test_request_beats_makers_recommendation_beats_default(
    folder: Path,
) -> None:
    assert sampling(folder) == (1.0, 1.0, 0, 1.0)
    recommend(folder, temperature=0.6, top_k=20, repetition_penalty=1.05)
    assert sampling(folder) == (0.6, 1.0, 20, 1.05)
    assert sampling(folder, temperature=0.0, top_k=0, top_p=0.5) == (0.0, 0.5, 0, 1.05)


def test_invalid_recommendations_are_ignored(folder: Path) -> None:
    invalid = {"temperature": -1, "top_p": 0, "top_k": -1, "min_p": "x", "repetition_penalty": True}
    assert recommend(folder, **invalid) == {}
    assert recommend(folder, do_sample=False, temperature=0.7) == {"temperature": 0.0}


def test_makers_recommendation_beats_ollamas_defaults(folder: Path) -> None:
    body = OllamaChat(model="m", messages=[], options=Options(top_p=0.5))
    found = body.parameters("m", recommend(folder, temperature=0.6))
    assert (found.temperature, found.top_p, found.top_k) == (0.6, 0.5, 40)


def test_embedded_model_has_its_makers_recommendation() -> None:
    facts = read_facts(EMBEDDED_MODEL)
    assert facts.sampling == {"temperature": 0.2, "top_p": 0.9}
