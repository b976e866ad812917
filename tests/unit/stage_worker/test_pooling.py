"""Embeddings of a pipeline: the model's own hidden states, in every cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pomona.errors import ModelError, RequestError
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona.models.pooling_config import read_pooling
from pomona_gateway.http.openai.embeddings import FAMILIES, EmbeddingRequest, check_support
from pomona_stage_worker.slicing import slice_model
from support.models.random_llama import CUTS, GREEDY, alone, model, pipeline, prompts
from support.slicing.families import build, randomise

EMBED = replace(GREEDY, max_tokens=1, embedding=True)


def hidden(prompt: Sequence[int]) -> list[float]:
    """What the model alone gives its vocabulary head at the prompt's last token."""
    return np.asarray(model().model(mx.array([list(prompt)]))[0, -1]).tolist()


@pytest.mark.parametrize("bounds", CUTS)
def test_the_last_tokens_hidden_states_come_once_beside_replies(bounds: tuple[int, ...]) -> None:
    line = pipeline(bounds, chunk=16)
    wanted = prompts(6, 40)
    clients = [
        line.submit(f"r{n}", prompt, EMBED if n % 2 else GREEDY) for n, prompt in enumerate(wanted)
    ]
    line.run()
    for n, (client, prompt) in enumerate(zip(clients, wanted, strict=True)):
        if n % 2:
            [embedding] = client.embeddings
            assert embedding == pytest.approx(hidden(prompt), abs=1e-4)
            assert client.finish == "length"
        else:
            assert client.embeddings == []
            assert client.tokens == alone(prompt)
    assert line.scheduler.active == 0


def test_a_kept_prefix_serves_embeddings_too() -> None:
    line = pipeline((0, 2, 5))
    prompt = prompts(1, 50)[0] * 3
    line.submit("kept", prompt, EMBED)
    line.run()
    again = line.submit("again", prompt, EMBED)
    line.run()
    assert again.cached == len(prompt) - 1
    assert again.embeddings[0] == pytest.approx(hidden(prompt), abs=1e-4)


def modules(folder: Path, *kinds: str, pooling: dict[str, object] | None = None) -> Path:
    """A folder with the files of sentence-transformers."""
    listed = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"s.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


LAST = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False,
        "pooling_mode_lasttoken": True}  # fmt: skip


@pytest.mark.parametrize("family", sorted(FAMILIES - {"mistral"}))
def test_the_families_that_are_embedded_with_give_their_heads_input(family: str) -> None:
    """mlx-lm runs mistral as llama."""
    built: Any = build(family)
    randomise(built)
    tokens = mx.array([[3, 5, 7, 11]])
    first, last = slice_model(built, 0, 1), slice_model(built, 1, len(built.layers))
    sent = first(tokens, None, first.make_cache())
    made = last(tokens, sent, last.make_cache(), logits="hidden")
    assert made.shape == (1, 1, built.args.hidden_size)
    assert mx.allclose(made[:, 0], built.model(tokens)[:, -1], atol=1e-5)


@pytest.mark.parametrize(
    ("kinds", "pooling", "told"),
    [
        (("Transformer", "Pooling", "Normalize"), LAST, ("lasttoken", True)),
        (("Transformer", "Pooling"), LAST, ("lasttoken", False)),
        (("Transformer", "Pooling"), {"pooling_mode": "lasttoken"}, ("lasttoken", False)),
        (("Transformer", "Pooling"), {"pooling_mode_mean_tokens": True}, ("mean_tokens", False)),
        (("Transformer", "Pooling"), {}, ("unknown", False)),
        (("Transformer", "Pooling"), None, ("unknown", False)),
        (("Transformer", "Pooling", "Dense"), LAST, ("unknown", False)),
        (("Transformer", "Dense"), None, ("unknown", False)),
    ],
)
def test_pooling_is_read(
    tmp_path: Path,
    kinds: tuple[str, ...],
    pooling: dict[str, object] | None,
    told: tuple[str, bool],
) -> None:
    assert read_pooling(modules(tmp_path, *kinds, pooling=pooling)) == told


def test_a_model_that_writes_has_no_pooling(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == ("", False)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"path": ""}]', '["x"]'])
def test_modules_that_cannot_be_read_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=r"modules\.json"):
        read_pooling(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pooling": ""}, "writes text"),
        ({"pooling": "mean_tokens"}, "'mean_tokens'"),
        ({"pooling": "unknown"}, "'unknown'"),
        ({"architecture": "gemma3_text"}, "an architecture"),
        ({"unused_code": ("config.json",)}, "code of its own"),
    ],
)
def test_other_embeddings_are_refused_with_the_reason(change: dict[str, Any], words: str) -> None:
    embeds = replace(read_facts(EMBEDDED_MODEL), pooling="lasttoken")
    asked = EmbeddingRequest(model="m", input="x")
    check_support("m", embeds, asked)
    with pytest.raises(RequestError, match=words) as refused:
        check_support("m", replace(embeds, **change), asked)
    assert (refused.value.status, refused.value.code) == (400, "embeddings_not_supported")
