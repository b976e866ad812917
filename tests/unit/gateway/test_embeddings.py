"""Embedding requests that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pomona.errors import RequestError
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_gateway.http.openai.embeddings import check_support


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
def test_models_that_do_not_embed_are_refused_with_the_reason(
    change: dict[str, Any], words: str
) -> None:
    embeds = replace(read_facts(EMBEDDED_MODEL), pooling="lasttoken")
    check_support("m", embeds, None)
    with pytest.raises(RequestError, match=words) as refused:
        check_support("m", replace(embeds, **change), None)
    assert (refused.value.status, refused.value.code) == (400, "embeddings_not_supported")
