"""Names of models as clients write them."""

from __future__ import annotations

import pytest

from pomona_gateway.models.names import find_name

SOURCES = {"SmolLM2-135M": "org/SmolLM2-135M-Instruct", "Qwen3": "/models/qwen", "qwen3": "other"}
ALIASES = {"claude-*": "smollm2-135m", "*": "absent", "gpt-4o": "Qwen3"}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("SmolLM2-135M", "SmolLM2-135M"),
        ("smollm2-135m", "SmolLM2-135M"),
        ("SMOLLM2-135M:latest", "SmolLM2-135M"),
        ("smollm2-135m:LATEST", "SmolLM2-135M"),
        ("org/SmolLM2-135M-Instruct", "SmolLM2-135M"),
        ("qwen3", "qwen3"),
        ("Qwen3", "Qwen3"),
        ("/models/qwen", "Qwen3"),
        ("Claude-Sonnet-4-5", "SmolLM2-135M"),
        ("gpt-4o", None),
        ("smollm2-135m:8b", None),
    ],
)
def test_name_means_the_nearest_model(name: str, found: str | None) -> None:
    assert find_name(name, SOURCES, ALIASES) == found


def test_without_aliases_an_unknown_name_means_nothing() -> None:
    assert find_name("claude-3", SOURCES, {}) is None
