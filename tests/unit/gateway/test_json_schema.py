"""Replies to generated JSON Schemas validate, or the gateway rejects the schema beforehand.

Grammars, sampler and lanes are the real ones. The model has random weights, which covers more of
a grammar than a trained model.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from pomona.errors import RequestError
from pomona.messages.sampling import Sampling
from pomona.models import EMBEDDED_MODEL
from pomona.models.formats.vocabulary import read_vocabulary
from pomona_gateway.grammar import GrammarChecker, JsonShape, body_grammar
from pomona_gateway.settings import GatewaySettings
from pomona_gateway.text import load_language_model
from support.json_schemas import generated_schemas
from support.models.random_llama import vocabulary_pipeline

COUNT = 200
MAX_TOKENS = 700


@pytest.mark.slow
def test_every_reply_validates_or_its_schema_is_rejected_with_a_reason() -> None:
    language = load_language_model(EMBEDDED_MODEL)
    schemas = generated_schemas(COUNT)
    checker = GrammarChecker(GatewaySettings(node="near", grammar_deadline_s=60.0))

    async def check_all() -> list[str | RequestError]:
        checked: list[str | RequestError] = []
        for schema in schemas:
            try:
                checked.append(
                    await checker.check(language, body_grammar(JsonShape(schema, "here")))
                )
            except RequestError as error:
                checked.append(error)
        return checked

    try:
        grammars = asyncio.run(check_all())
    finally:
        checker.close()
    line = vocabulary_pipeline()
    clients = [
        line.submit(
            f"r{number}",
            range(1 + number % 7),
            Sampling(
                max_tokens=MAX_TOKENS, seed=number, stop_ids=language.stop_ids, grammar=grammar
            ),
        )
        if isinstance(grammar, str)
        else grammar
        for number, grammar in enumerate(grammars)
    ]
    line.run()
    decode = read_vocabulary(language.facts.path).decode
    validators = jsonschema.Draft202012Validator
    wrong: list[tuple[dict[str, Any], str]] = []
    answered = 0
    for schema, client in zip(schemas, clients, strict=True):
        if isinstance(client, RequestError):
            assert (client.status, client.param) == (400, "here")
            assert client.message
            continue
        text = decode(client.tokens)
        if client.finish != "stop" or not validators(schema).is_valid(json.loads(text)):
            wrong.append((schema, text))
        answered += 1
    assert wrong == []
    assert COUNT * 3 // 4 <= answered < COUNT
