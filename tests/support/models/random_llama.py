"""A small random llama, mlx-lm's ids for its prompts, and pipelines of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models import llama

from pomona.messages.sampling import Sampling
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_stage_worker.model.mlx_stage import MlxStage
from pomona_stage_worker.sampling.grammar_mask import GrammarCompiler
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.slicing import slice_model
from pomona_stage_worker.speculation.draft import DraftSource
from support.doubles.pipeline import InProcessPipeline

VOCABULARY = 97
LAYERS = 5
REPLY = 12
CUTS: list[tuple[int, ...]] = [(0, 5), (0, 2, 5), (0, 1, 3, 5)]


@cache
def model() -> Any:
    """Returns a float32 llama with weights so large that no two logits are almost equal."""
    mx.random.seed(7)
    arguments = llama.ModelArgs(
        model_type="llama",
        hidden_size=32,
        num_hidden_layers=LAYERS,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    built = llama.Model(arguments)
    built.apply(lambda x: mx.random.normal(x.shape) * 0.25 if x.ndim > 1 else x)
    mx.eval(built.parameters())
    built.eval()
    return built


@cache
def reference_ids(prompt: tuple[int, ...]) -> list[int]:
    """Returns the ids that mlx-lm alone generates for a prompt."""
    steps = generate_step(mx.array(prompt), model(), max_tokens=REPLY)
    return [int(token) for token, _ in steps]


def llama_pipeline(bounds: Sequence[int], **limits: Any) -> InProcessPipeline:
    stages = [MlxStage(slice_model(model(), a, b), builds_beside=True) for a, b in pairwise(bounds)]
    allowed: dict[str, Any] = {
        "context_length": 4096,
        "cache_tokens": 20_000,
        "min_prefix": 4,
        **limits,
    }
    return InProcessPipeline(stages, SchedulerLimits(stages=len(stages), **allowed))


def prompts(count: int, length: int = 40) -> list[tuple[int, ...]]:
    return [
        tuple((31 * i + 17 * n * i + n) % VOCABULARY for i in range(1 + (length * (n + 3)) % 53))
        for n in range(count)
    ]


GREEDY = Sampling(max_tokens=REPLY, temperature=0.0)


@cache
def vocabulary_model() -> Any:
    """Returns a tiny random model with the default model's vocabulary."""
    mx.random.seed(11)
    arguments = llama.ModelArgs(
        model_type="llama",
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=16,
        num_attention_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=read_facts(EMBEDDED_MODEL).vocab_size,
    )
    built = llama.Model(arguments)
    built.eval()
    return built


@cache
def wide_model() -> Any:
    """Returns a random model whose heads are wide enough to quantise."""
    mx.random.seed(3)
    arguments = llama.ModelArgs(
        model_type="llama",
        hidden_size=128,
        num_hidden_layers=3,
        intermediate_size=128,
        num_attention_heads=2,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
    )
    built = llama.Model(arguments)
    built.apply(lambda x: mx.random.normal(x.shape) * 0.2 if x.ndim > 1 else x)
    built.eval()
    return built


def vocabulary_pipeline(
    speculation: bool = False, sources: tuple[DraftSource, ...] = ()
) -> InProcessPipeline:
    """Returns two stages of :func:`vocabulary_model`, whose tail applies grammars."""
    facts = read_facts(EMBEDDED_MODEL)
    whole = vocabulary_model()
    grammars = GrammarCompiler(facts.path, facts.vocab_size)
    stages = [MlxStage(slice_model(whole, 0, 1)), MlxStage(slice_model(whole, 1, 2), 0, grammars)]
    limits = SchedulerLimits(
        stages=2,
        context_length=2000,
        cache_tokens=99_999,
        max_waiting=1000,
        speculation=speculation,
    )
    return InProcessPipeline(stages, limits, sources)
