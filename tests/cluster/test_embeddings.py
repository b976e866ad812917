"""``/v1/embeddings`` of a real cluster returns the hidden states of mlx-lm's own model."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import mlx.core as mx
import numpy as np
import openai
import pytest

from support.clusters import MODEL, Cluster, run_pomona
from support.models import little_qwen
from support.models.folders import tensors_of, write_folder
from support.models.tiny_model import tiny_backend
from support.waiting import wait_until

NAME = "little-embedder"
CONFIG = little_qwen.CONFIG | {"tie_word_embeddings": True}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize",
     "type": "sentence_transformers.models.Normalize"},
]  # fmt: skip
TEXTS = ["hello there", "what is the capital of France?", "a b c " * 60]


@pytest.fixture(scope="module")
def model() -> Any:
    return little_qwen.random_model(CONFIG)


@pytest.fixture(scope="module")
def client(
    cluster: Cluster, model: Any, tmp_path_factory: pytest.TempPathFactory
) -> Generator[openai.OpenAI]:
    """Loads an embedding model that is stored as Qwen3-Embedding is, without a vocabulary head."""
    folder = tmp_path_factory.mktemp("models") / NAME
    body = {name.removeprefix("model."): array for name, array in tensors_of(model).items()}
    write_folder(folder, body, CONFIG, files=2)
    tiny_backend().save(str(folder / "tokenizer.json"))
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    done = run_pomona("models", "load", str(folder), "--port", str(cluster.ports.first))
    assert done.returncode == 0, done.stdout + done.stderr
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def reference_embedding(model: Any, text: str) -> list[float]:
    """Returns the hidden states at the text's last token, normalised to length 1."""
    ids = tiny_backend().encode(text).ids
    last = np.asarray(model.model(mx.array([ids]))[0, -1], dtype=np.float64)
    return (last / np.linalg.norm(last)).tolist()


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_equal_those_of_mlx_lm(client: openai.OpenAI, model: Any, encoding: Any) -> None:
    """Without an encoding, the client requests base64 and decodes it."""
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model=NAME, input=TEXTS, **options)
    assert [x.index for x in answer.data] == [0, 1, 2]
    for text, item in zip(TEXTS, answer.data, strict=True):
        vector = item.embedding
        if isinstance(vector, str):  # the client decodes only if it chose the encoding
            vector = np.frombuffer(base64.b64decode(vector), np.float32).tolist()
        assert vector == pytest.approx(reference_embedding(model, text), abs=1e-4)
    count = sum(len(tiny_backend().encode(text).ids) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)


def test_token_ids_and_text_give_the_same_embedding(client: openai.OpenAI, model: Any) -> None:
    ids = tiny_backend().encode(TEXTS[0]).ids
    for tokens in (ids, [ids]):
        (item,) = client.embeddings.create(model=NAME, input=tokens).data
        assert item.embedding == pytest.approx(reference_embedding(model, TEXTS[0]), abs=1e-4)


def test_one_request_may_hold_a_thousand_texts(client: openai.OpenAI, model: Any) -> None:
    texts = [f"text {n}" for n in range(1000)]
    data = client.embeddings.create(model=NAME, input=texts).data
    assert [x.index for x in data] == list(range(1000))
    for n in (0, 31, 32, 500, 999):
        assert data[n].embedding == pytest.approx(reference_embedding(model, texts[n]), abs=1e-4)


def test_a_killed_stage_worker_costs_no_embedding(
    cluster: Cluster, client: openai.OpenAI, model: Any
) -> None:
    texts = [f"text {n}" for n in range(400)]
    pipelines = {x["model"]: x for x in cluster.status()["pipelines"]}
    before = prompt_tokens(cluster)
    with ThreadPoolExecutor(1) as executor:
        request = executor.submit(client.embeddings.create, model=NAME, input=texts)
        wait_until(lambda: prompt_tokens(cluster) > before + 50, "some texts were embedded")
        os.kill(pipelines[NAME]["stages"][1]["pid"], signal.SIGKILL)
        assert not request.done()
        data = request.result(120).data
    assert len(data) == 400
    for n in (0, 100, 200, 399):
        assert data[n].embedding == pytest.approx(reference_embedding(model, texts[n]), abs=1e-4)


def prompt_tokens(cluster: Cluster) -> float:
    """Returns the number of prompt tokens since the gateway started."""
    text = httpx.get(f"{cluster.url}/metrics").text
    found = re.search(rf"^pomona_prompt_tokens_total.*{NAME}.* (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"model": MODEL}, "embeddings_not_supported", "writes text"),
        ({"dimensions": 32}, "invalid_value", "have 64"),
        ({"input": "a b c " * 400}, "context_length_exceeded", "tokens"),
        ({"input": ""}, "invalid_value", "input"),
        ({"input": [10**6]}, "invalid_value", "out of range"),
    ],
)
def test_an_invalid_request_is_400_with_the_reason(
    client: openai.OpenAI, cluster: Cluster, change: dict[str, Any], code: str, words: str
) -> None:
    body = {"model": NAME, "input": "x"} | change
    answer = httpx.post(f"{cluster.url}/v1/embeddings", json=body, timeout=30)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["code"] == code
