"""What `pomona up` says of a gateway that cannot answer requests."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from pomona_ops.cluster.readiness import why_not_ready


def asked(handler: Callable[[httpx.Request], httpx.Response]) -> str:
    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await why_not_ready(client, "http://gateway")

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(200, json={"status": "ready", "reason": ""}), ""),
        (
            httpx.Response(503, json={"status": "loading", "reason": "m: stage 0 is loading"}),
            "m: stage 0 is loading",
        ),
        (httpx.Response(503, json={"status": "loading"}), "it answers with 503"),
        (httpx.Response(503, json={"status": "loading", "reason": ""}), "it answers with 503"),
        (httpx.Response(502, text="<html>"), "it answers with 502"),
        (httpx.Response(503, json=["loading"]), "it answers with 503"),
    ],
)
def test_the_reason_is_the_gateways_own(answer: httpx.Response, reason: str) -> None:
    paths: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return answer

    assert asked(handler) == reason
    assert paths == ["/readyz"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ReadTimeout("slow"), "it did not answer in time"),
        (httpx.ConnectError("refused"), "it does not answer"),
    ],
)
def test_a_gateway_that_says_nothing_is_said_to(error: Exception, reason: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    assert asked(handler) == reason
