"""Tests embeddings: they equal the model's own hidden states in every cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pomona_gateway.http.openai.embeddings import FAMILIES
from pomona_stage_worker.slicing import slice_model
from support.models.random_llama import CUTS, GREEDY, llama_pipeline, model, prompts, reference_ids
from support.slicing.families import build, randomise

EMBED = replace(GREEDY, max_tokens=1, embedding=True)


def hidden(prompt: Sequence[int]) -> list[float]:
    """Returns the uncut model's input to its vocabulary head at the prompt's last token."""
    return np.asarray(model().model(mx.array([list(prompt)]))[0, -1]).tolist()


@pytest.mark.parametrize("bounds", CUTS)
def test_an_embedding_arrives_once_beside_other_requests_replies(bounds: tuple[int, ...]) -> None:
    pipeline = llama_pipeline(bounds, chunk=16)
    all_prompts = prompts(6, 40)
    clients = [
        pipeline.submit(f"r{n}", prompt, EMBED if n % 2 else GREEDY)
        for n, prompt in enumerate(all_prompts)
    ]
    pipeline.run()
    for n, (client, prompt) in enumerate(zip(clients, all_prompts, strict=True)):
        if n % 2:
            [embedding] = client.embeddings
            assert embedding == pytest.approx(hidden(prompt), abs=1e-4)
            assert client.finish == "length"
        else:
            assert client.embeddings == []
            assert client.tokens == reference_ids(prompt)
    assert pipeline.scheduler.active == 0


def test_a_cached_prefix_serves_embeddings() -> None:
    pipeline = llama_pipeline((0, 2, 5))
    prompt = prompts(1, 50)[0] * 3
    pipeline.submit("first", prompt, EMBED)
    pipeline.run()
    again = pipeline.submit("again", prompt, EMBED)
    pipeline.run()
    assert again.cached == len(prompt) - 1
    assert again.embeddings[0] == pytest.approx(hidden(prompt), abs=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES - {"mistral"}))
def test_embedding_families_return_the_input_of_their_vocabulary_head(family: str) -> None:
    """mlx-lm runs mistral as llama."""
    built: Any = build(family)
    randomise(built)
    tokens = mx.array([[3, 5, 7, 11]])
    first, last = slice_model(built, 0, 1), slice_model(built, 1, len(built.layers))
    sent = first(tokens, None, first.make_cache())
    made = last(tokens, sent, last.make_cache(), logits="hidden")
    assert made.shape == (1, 1, built.args.hidden_size)
    assert mx.allclose(made[:, 0], built.model(tokens)[:, -1], atol=1e-5)
