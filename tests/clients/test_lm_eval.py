"""lm-eval gets the same scores from a cluster as from mlx-lm with the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from pomona.models import read_facts
from pomona.models.formats.vocabulary import read_vocabulary
from pomona_ops.cluster.blas import stage_worker_environment
from support import mlx_lm_scores
from support.clusters import MODEL, Cluster

STORY = "The keeper of the lighthouse counted the ships, wrote their names down, and lit the lamp."
QUESTIONS = {
    "The capital of France is": [" Paris.", " London.", " a very small dog"],
    "Question: Is water wet?\nAnswer:": [" yes", " no"],
    "She put the kettle on, because": [" she wanted to make some tea for her guests."],
    "Zażółć gęślą": [" jaźń.", " 日本語 🐑"],
    " ".join([STORY] * 7): [" Then he slept.", " Purple is seven."],
}
"""The last context is longer than one chunk of a scored prompt."""
PAIRS = [(context, x) for context, continuations in QUESTIONS.items() for x in continuations]


@pytest.fixture(scope="module")
def expected() -> list[tuple[float, bool]]:
    """Log-likelihoods by mlx-lm alone, and whether each continuation is the greedy one."""
    done = subprocess.run(
        [sys.executable, mlx_lm_scores.__file__, MODEL],
        env={**os.environ, **stage_worker_environment(1)},
        input=json.dumps(PAIRS).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's tokenizer as a folder that transformers reads."""
    folder = tmp_path_factory.mktemp("tokenizer")
    read_vocabulary(read_facts(MODEL).path).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 3, "num_concurrent": 2}, {"batch_size": 4, "tokenized_requests": False}],
    ids=["batches of ids at once", "batches of texts"],
)
def test_log_likelihoods_equal_those_of_mlx_lm(
    cluster: Cluster, expected: list[tuple[float, bool]], tokenizer: Path, options: dict[str, Any]
) -> None:
    adapter: Any = LocalCompletionsAPI
    harness = adapter(
        model=MODEL,
        base_url=f"{cluster.url}/v1/completions",
        tokenizer=str(tokenizer),
        tokenizer_backend="huggingface",
        **options,
    )
    requests = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(PAIRS)]
    scores = harness.loglikelihood(requests, disable_tqdm=True)
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
    assert any(greedy for _, greedy in expected)
    assert [score for score, _ in scores] == pytest.approx([x for x, _ in expected], abs=1e-3)
