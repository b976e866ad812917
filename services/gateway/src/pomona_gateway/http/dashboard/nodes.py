"""``/api/pomona/v1/nodes`` and ``/api/pomona/v1/logs``, for administrators: who is a member, who
asks to become one, and what this machine's services have written."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona_gateway.dashboard.log_lines import MAX_LINES, read_logs
from pomona_gateway.gateway import Gateway, is_loopback
from pomona_gateway.http.common.run_request import gateway_of, read_query, read_request
from pomona_gateway.http.request_body import Body, Query
from pomona_gateway.http.respond import JsonResponse, while_connected

RETRY_AFTER_S = 5

# A name does not begin like an option of the command.
NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
ResultT = TypeVar("ResultT")


class InviteBody(Body):
    """Nothing to choose: an invitation is good for one machine and for ten minutes."""


class ApproveBody(Body):
    """A machine that asks to join, and the digits that its screen shows."""

    name: NodeName
    digits: Annotated[str, StringConstraints(pattern=r"^[0-9 ]*$", max_length=16)] = ""
    replace: bool = False
    deny: bool = False


class RevokeBody(Body):
    """A member, by name or id."""

    name: NodeName


class LogsQuery(Query):
    """Process, such as ``stage_worker.1``, and number of lines."""

    process: Annotated[str, StringConstraints(max_length=64)] = ""
    lines: Annotated[int, Field(ge=1, le=MAX_LINES)] = 200


async def nodes(request: Request) -> Response:
    """Lists the members of the cluster, and the machines that ask to join, with their digits."""
    gateway = _gateway_for_administrators(request)
    services = gateway.control.leases.of_service("discovery")
    online = {beacon.node for beacon in services}
    return JsonResponse(await asyncio.to_thread(gateway.membership.read, online))


async def invite(request: Request) -> Response:
    """Returns a line that lets one other machine join, within ten minutes. A machine that only
    listens to itself opens to others first: its services start again, and the status is 503."""
    await read_request(request, InviteBody)
    return await _run(request, "invite", "--json")


async def approve(request: Request) -> Response:
    """Lets a machine in that asks to join, when the digits are those of its screen; or refuses."""
    body = await read_request(request, ApproveBody)
    digits = [f"--digits={body.digits}"] if body.digits else []
    flags = ["--replace"] * body.replace + ["--deny"] * body.deny
    return await _run(request, "approve", "--json", *digits, *flags, "--", body.name)


async def revoke(request: Request) -> Response:
    """Ends the membership of a machine, within a second."""
    body = await read_request(request, RevokeBody)
    return await _run(request, "revoke", "--json", "--", body.name)


async def logs(request: Request) -> Response:
    """Returns the newest lines of the logs on the gateway's machine."""
    gateway = _gateway_for_administrators(request)
    query = read_query(request, LogsQuery)
    settings = gateway.settings
    found = await asyncio.to_thread(
        read_logs, settings.node, settings.state_dir, query.process, query.lines
    )
    return JsonResponse(found)


async def _run(request: Request, *arguments: str) -> Response:
    gateway = _gateway_for_administrators(request)
    work = _unless_draining(gateway, gateway.membership.run(*arguments))
    return JsonResponse(await while_connected(request.receive, work))


async def _unless_draining(gateway: Gateway, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Gives up a command when this gateway is told to end, which the command may have caused.

    Raises RequestError (503).
    """
    working = asyncio.ensure_future(work)
    ending = asyncio.ensure_future(gateway.drain_begun.wait())
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        ending.cancel()
        working.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)
    raise RequestError(
        503,
        "services_restart",
        "the services of this machine start again; ask again when they are back",
        retry_after_s=RETRY_AFTER_S,
    )


def _gateway_for_administrators(request: Request) -> Gateway:
    """Returns the gateway. The middleware has checked the key, where keys are required.

    Raises RequestError (403) where they are not, and the client is another machine.
    """
    gateway = gateway_of(request)
    host = request.client.host if request.client is not None else ""
    if not gateway.requires_key and not is_loopback(host):
        message = (
            "members and logs are only for this machine itself, as this gateway takes requests "
            "without a key; make keys with `pomona keys create NAME --administrator`, and set "
            "POMONA_GATEWAY_REQUIRE_KEY=true"
        )
        raise RequestError(403, "not_allowed", message)
    return gateway
