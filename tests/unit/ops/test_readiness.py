"""The reason why a gateway is not ready."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from pomona_ops.cluster.readiness import why_not_ready


def reason_of(handler: Callable[[httpx.Request], httpx.Response]) -> str:
    async def reason() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await why_not_ready(client, "http://gateway")

    return asyncio.run(reason())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(200, json={"status": "ready", "reason": ""}), ""),
        (
            httpx.Response(503, json={"status": "loading", "reason": "m: stage 0 is loading"}),
            "m: stage 0 is loading",
        ),
        (httpx.Response(503, json={"status": "loading"}), "status 503"),
        (httpx.Response(503, json={"status": "loading", "reason": ""}), "status 503"),
        (httpx.Response(502, text="<html>"), "status 502"),
        (httpx.Response(503, json=["loading"]), "status 503"),
    ],
)
def test_the_reason_is_the_gateways_own(answer: httpx.Response, reason: str) -> None:
    paths: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return answer

    assert reason_of(handler) == reason
    assert paths == ["/readyz"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ReadTimeout("slow"), "no answer in time"),
        (httpx.ConnectError("refused"), "no answer"),
    ],
)
def test_a_gateway_that_does_not_answer_has_a_reason(error: Exception, reason: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    assert reason_of(handler) == reason
