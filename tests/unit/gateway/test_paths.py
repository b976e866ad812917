"""Paths as clients write them."""

from __future__ import annotations

import pytest

from pomona_gateway.http.paths import meant_path


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("//v1//chat/completions//", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/models", "/v1/models"),
        ("/models/org/tiny", "/v1/models/org/tiny"),
        ("/modelsx", "/modelsx"),
        ("/api/chat/", "/api/chat"),
        ("/health", "/health"),
    ],
)
def test_path_is_the_one_that_is_meant(path: str, meant: str) -> None:
    assert meant_path(path) == meant
