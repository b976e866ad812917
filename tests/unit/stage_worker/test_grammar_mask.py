"""Tests that replies match their grammar, alone, in a lane and after a resumption."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import psutil
import pytest
from llguidance import LLMatcher

from pomona.messages.cache_ops import Open
from pomona.messages.sampling import Sampling
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona.models.formats.vocabulary import read_vocabulary
from pomona_stage_worker.sampling.grammar_mask import GrammarCompiler
from pomona_stage_worker.sampling.grammar_process import GrammarProcess, GrammarRefusedError
from support.doubles.pipeline import Client
from support.models.random_llama import vocabulary_pipeline
from support.waiting import wait_until

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


@pytest.mark.slow
def test_a_complete_grammar_allows_only_stop_ids() -> None:
    op = Open(1, "a", 1, "tcp://g", sampling(LLMatcher.grammar_from_regex("a")))
    constraint = GrammarCompiler(FACTS.path, FACTS.vocab_size).constraint_for(op)
    a = read_vocabulary(FACTS.path).encode("a").ids[0]
    constraint.accept(a)
    assert np.flatnonzero(constraint.allowed()).tolist() == list(STOP)


BOMB = LLMatcher.grammar_from_json_schema(
    {"type": "string", "allOf": [{"pattern": f"a.{{1,{n}}}b"} for n in range(1, 201)]}
)


@pytest.mark.slow
def test_a_grammar_that_takes_too_much_ends_its_own_reply_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    compiler = GrammarCompiler(FACTS.path, FACTS.vocab_size)
    for grammar in (BOMB, "not a grammar"):
        constraint = compiler.constraint_for(Open(1, "a", 1, "tcp://g", sampling(grammar)))
        assert set(np.flatnonzero(constraint.allowed())) == set(STOP)
        constraint.accept(STOP[0])
    assert "refused" in caplog.text
    constraint = compiler.constraint_for(Open(2, "b", 1, "tcp://g", sampling(DATE)))
    assert constraint.allowed().sum() > len(STOP)


@pytest.mark.slow
def test_a_vocabulary_is_read_in_a_process_that_ends_with_the_compiler(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    process = GrammarProcess(tmp_path, 100)
    with pytest.raises(GrammarRefusedError, match="vocabulary"):
        process.vocabulary()
    before = psutil.Process().children()
    compiler = GrammarCompiler(FACTS.path, FACTS.vocab_size)
    compiler.constraint_for(Open(1, "a", 1, "tcp://g", sampling(DATE))).allowed()
    [child] = [x for x in psutil.Process().children() if x not in before]
    del compiler
    gc.collect()
    wait_until(lambda: not child.is_running(), "the process ends")
