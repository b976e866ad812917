"""Published models: the facts computed from data agree with the published figures."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

import pytest

from pomona.models.published import published_facts, published_names

DATA: dict[str, dict[str, Any]] = tomllib.loads(
    (files("pomona.models") / "data" / "published.toml").read_text()
)
COMMON_MODELS = [
    "deepseek-v3",
    "llama-4-maverick",
    "qwen3-235b-a22b",
    "kimi-k2",
    "gpt-oss-120b",
    "glm-4.6",
]


def test_common_models_have_facts_with_a_source() -> None:
    assert set(COMMON_MODELS) <= set(published_names())
    for name in published_names():
        facts = published_facts(name)
        assert facts is not None
        assert facts.format == "data"
        assert facts.source
        assert "layers" in facts.computed


@pytest.mark.parametrize("name", [name for name in DATA if "parameters" in DATA[name]])
def test_computed_parameters_equal_the_published_ones(name: str) -> None:
    facts = published_facts(name)
    assert facts is not None
    assert facts.parameters / 1e9 == pytest.approx(DATA[name]["parameters"], rel=0.015)
    # Some authors count both embeddings as active, some one, some none, and all round coarsely.
    embedding = facts.embedding.parameters
    counts = [(facts.active_parameters - left_out * embedding) / 1e9 for left_out in (0, 1, 2)]
    assert any(count == pytest.approx(DATA[name]["active"], rel=0.12) for count in counts)


def test_cache_sizes_follow_the_architecture() -> None:
    def values(name: str) -> int:
        facts = published_facts(name)
        assert facts is not None
        return facts.layers[0].kv_values_per_token

    assert values("deepseek-v3") == 512 + 64
    assert values("qwen3-235b-a22b") == 2 * 4 * 128
    oss = published_facts("gpt-oss-120b")
    assert oss is not None
    assert [layer.window for layer in oss.layers[:4]] == [128, 0, 128, 0]
    maverick = published_facts("llama-4-maverick")
    assert maverick is not None
    assert [layer.window for layer in maverick.layers[:4]] == [8192, 8192, 8192, 0]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("deepseek-v3", ["latent"] * 4),
        ("qwen3.5-9b", ["linear", "linear", "linear", "full"]),
        ("gpt-oss-20b", ["sliding", "full"] * 2),
        ("gemma-3-27b", ["sliding"] * 4),
        ("qwen3-8b", ["full"] * 4),
    ],
)
def test_each_layer_has_the_kind_of_its_attention(name: str, kinds: list[str]) -> None:
    facts = published_facts(name)
    assert facts is not None
    assert [layer.attention for layer in facts.layers[:4]] == kinds


def test_experts_and_other_weights_can_have_different_widths() -> None:
    mixed = published_facts("gpt-oss-20b", 4.25, 8.5)
    assert mixed is not None
    assert 8 * mixed.head.stored_bytes / mixed.head.parameters == pytest.approx(8.5, rel=0.01)
    assert mixed.stored_bytes == pytest.approx(12.1e9, rel=0.03)


def test_a_quantization_can_be_selected_by_name() -> None:
    default, eight_bit = published_facts("DeepSeek-V3"), published_facts("deepseek-v3:8bit")
    assert default is not None
    assert eight_bit is not None
    assert default.stored_bytes == pytest.approx(671e9 * 4.5 / 8, rel=0.01)
    assert eight_bit.stored_bytes == pytest.approx(671e9 * 8.5 / 8, rel=0.01)
    assert published_facts("deepseek-v3:3bit") is None
    assert published_facts("no-such-model") is None


def test_the_size_of_gpt_oss_equals_that_of_its_files() -> None:
    facts = published_facts("gpt-oss-120b")
    assert facts is not None
    assert facts.stored_bytes == pytest.approx(65.2e9, rel=0.03)
