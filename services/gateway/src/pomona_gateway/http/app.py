"""The ASGI application: every path of the API."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.auth import HeaderCount, Hosts, Keys
from pomona_gateway.http.errors import error_response, from_http
from pomona_gateway.http.json_response import JsonResponse
from pomona_gateway.http.middleware import LastResort, Linger, RequestIds
from pomona_gateway.http.openapi import DOCUMENT, OPERATIONS
from pomona_gateway.http.request_body import ClientGone


async def _refuse(request: Request, error: Exception) -> Response:
    gateway: Gateway = request.app.state.gateway
    headers: dict[str, str] = {}
    match error:
        case RequestError():
            refused = error
        case HTTPException():
            refused = from_http(request, error, _allowed(request))
            headers = {"allow": _allowed(request)} if error.status_code == 405 else headers
        case _:
            raise error
    asked = getattr(request.state, "model", "")
    gateway.count_error(refused, asked if asked in gateway.models.names() else "")
    return error_response(refused, request.scope, headers)


def _allowed(request: Request) -> str:
    """The methods of all operations at a path; Starlette tells those of one."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    own = [route for route in routes if route.path == request.url.path]
    found = own or [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    return ", ".join(sorted({method for route in found for method in route.methods or ()}))


async def _nobody(request: Request, error: Exception) -> Response:
    """The client is gone: this answer is never read."""
    return Response(status_code=499)


async def _document(request: Request) -> Response:
    """The OpenAPI document of this API."""
    return JsonResponse(DOCUMENT)


def _middleware(gateway: Gateway) -> list[Middleware]:
    """From the outside in."""
    settings = gateway.settings
    own = ("localhost", settings.node, f"{settings.node}.local", "host.docker.internal")
    layers = [
        Middleware(RequestIds),
        Middleware(LastResort),
        Middleware(HeaderCount, most=settings.max_headers),
        Middleware(Hosts, allowed=(*own, *settings.allowed_hosts)),
        Middleware(Keys, store=gateway.keys, required=gateway.requires_key),
        Middleware(Linger),
    ]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
        )
        layers.insert(2, cors)
    return layers


def build_app(gateway: Gateway) -> Starlette:
    """The application that serves ``gateway``."""
    app = Starlette(
        routes=[
            Route("/openapi.json", _document),
            *(
                Route(
                    operation.path.replace("{model}", "{model:path}"),
                    operation.handler,
                    methods=[operation.method],
                )
                for operation in OPERATIONS
            ),
        ],
        middleware=_middleware(gateway),
        exception_handlers={
            ClientGone: _nobody,
            RequestError: _refuse,
            HTTPException: _refuse,
        },
    )
    app.router.redirect_slashes = False
    app.state.gateway = gateway
    return app
