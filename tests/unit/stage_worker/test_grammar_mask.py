"""Tests that replies match their grammar, alone, in a lane and after a resumption."""

from __future__ import annotations

import json

import numpy as np
import pytest
from llguidance import LLMatcher

from pomona.messages.cache_ops import Open
from pomona.messages.sampling import Sampling
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona.models.formats.vocabulary import read_vocabulary
from pomona_stage_worker.sampling.grammar_mask import GrammarCompiler
from support.doubles.pipeline import Client
from support.models.random_llama import vocabulary_pipeline

FACTS = read_facts(EMBEDDED_MODEL)
STOP = FACTS.eos_token_ids
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "mood": {"enum": ["glad", "sad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
JSON = LLMatcher.grammar_from_json_schema(SCHEMA, overrides={"whitespace_flexible": False})
DATE = LLMatcher.grammar_from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def sampling(grammar: str, temperature: float = 1.0, seed: int = 1) -> Sampling:
    return Sampling(
        max_tokens=300, temperature=temperature, seed=seed, stop_ids=STOP, grammar=grammar
    )


def text(client: Client) -> str:
    return read_vocabulary(FACTS.path).decode(client.tokens)


@pytest.mark.slow
def test_each_row_of_a_lane_matches_its_own_grammar() -> None:
    pipeline = vocabulary_pipeline()
    made = [pipeline.submit(f"j{n}", range(n + 3), sampling(JSON, seed=n)) for n in range(4)]
    dates = [pipeline.submit(f"d{n}", range(n + 9), sampling(DATE, seed=n)) for n in range(2)]
    free = pipeline.submit("free", range(20), Sampling(max_tokens=5))
    pipeline.run()
    for client in made:
        value = json.loads(text(client))
        assert set(value) == {"name", "age", "mood"}
        assert 0 <= value["age"] <= 99
        assert value["mood"] in ("glad", "sad")
        assert client.finish == "stop"
    for client in dates:
        assert np.datetime64(text(client)[:4])
        assert len(text(client)) == 10
    assert len(free.tokens) == 5


@pytest.mark.slow
def test_a_resumed_reply_continues_from_its_grammar_state() -> None:
    whole = vocabulary_pipeline()
    first = whole.submit("a", range(8), sampling(JSON, temperature=0.0))
    whole.run()
    half = len(first.tokens) // 2
    emitted = tuple(first.tokens[:half])
    op = Open(1, "a", 2, "tcp://g", sampling(JSON), half, (*range(8), *emitted), half)
    constraint = GrammarCompiler(FACTS.path, FACTS.vocab_size).constraint_for(op)
    for token in first.tokens[half:]:
        assert constraint.allowed()[token]
        constraint.accept(token)


def test_a_complete_grammar_allows_only_stop_ids() -> None:
    op = Open(1, "a", 1, "tcp://g", sampling(LLMatcher.grammar_from_regex("a")))
    constraint = GrammarCompiler(FACTS.path, FACTS.vocab_size).constraint_for(op)
    a = read_vocabulary(FACTS.path).encode("a").ids[0]
    constraint.accept(a)
    assert np.flatnonzero(constraint.allowed()).tolist() == list(STOP)
