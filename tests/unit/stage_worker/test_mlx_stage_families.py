"""Tests pipelines over models with every kind of cache and boundary.

With prefill chunks, lanes, prebuilt steps and cached prefixes, greedy ids equal those of mlx-lm
alone. test_slicing checks the cuts themselves bit for bit.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step

from pomona.messages.sampling import Sampling
from pomona_stage_worker.model.mlx_stage import MlxStage
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.slicing import legal_cuts, slice_model
from support.doubles.pipeline import InProcessPipeline
from support.slicing.families import build, randomise

KINDS = {
    "deepseek_v3": "latent keys",
    "deepseek_v32": "a cache with an indexer",
    "gemma3_text": "sliding windows",
    "gemma4_text": "several arrays cross a cut",
    "glm4_moe": "experts",
    "gpt_oss": "sinks and windows",
    "jamba": "state space and attention",
    "kimi_linear": "linear attention",
    "lfm2": "convolutions",
    "llama4": "chunked caches, which cannot be batched",
    "mamba2": "state space only",
    "nemotron_h": "mixed layers, some without a cache",
    "qwen3": "plain",
    "qwen3_next": "gated delta rule",
    "rwkv7": "a recurrent state and two arrays across",
}
REPLY = 8
GREEDY = Sampling(max_tokens=REPLY, temperature=0.0)


def alone(model: Any, prompt: list[int]) -> list[int]:
    steps = generate_step(mx.array(prompt), model, max_tokens=REPLY)
    return [int(token) for token, _ in steps]


@pytest.mark.slow
@pytest.mark.parametrize("row", sorted(KINDS))
def test_greedy_ids_equal_those_of_mlx_lm_alone(row: str) -> None:
    model: Any = build(row)
    randomise(model)
    cut = legal_cuts(model)[0]
    ends = [(0, cut), (cut, len(model.layers))]
    stages = [MlxStage(slice_model(model, a, b)) for a, b in ends]
    limits = SchedulerLimits(
        stages=2,
        context_length=500,
        cache_tokens=5000,
        can_batch=stages[0].can_batch,
        can_slice=stages[0].can_slice,
        chunk=8,
        min_prefix=4,
    )
    pipeline = InProcessPipeline(stages, limits)
    prompts = [[(7 * i + 3 * n * i + n) % 40 for i in range(5 + 3 * n)] for n in range(5)]
    clients = [pipeline.submit(f"r{n}", prompt, GREEDY) for n, prompt in enumerate(prompts)]
    pipeline.run()
    assert [client.tokens for client in clients] == [alone(model, p) for p in prompts]

    second = [*prompts[2], *clients[2].tokens, 1, 2, 3]
    again = pipeline.submit("again", second, GREEDY)
    pipeline.run()
    assert again.tokens == alone(model, second)
    assert again.cached == len(prompts[2]) + REPLY - 1
