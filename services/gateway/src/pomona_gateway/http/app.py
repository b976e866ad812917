"""The ASGI application: routes, middleware and error handlers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.auth import AllowedHosts, KeyAuthentication
from pomona_gateway.http.dashboard.page import FOLDER, page_file
from pomona_gateway.http.errors import routing_error
from pomona_gateway.http.idempotency import IdempotentRequests
from pomona_gateway.http.ignored import IgnoredHeader
from pomona_gateway.http.key_limits import KeyLimitCheck
from pomona_gateway.http.middleware import (
    HeaderCheck,
    RequestIds,
    UnexpectedErrors,
    UnreadBodies,
)
from pomona_gateway.http.openai.response_runs import store_failure
from pomona_gateway.http.openapi import DOCUMENT
from pomona_gateway.http.origins import OWN_ORIGINS, ForeignOrigins
from pomona_gateway.http.paths import MeantPaths
from pomona_gateway.http.request_body import ClientDisconnected
from pomona_gateway.http.respond import JsonResponse, error_response
from pomona_gateway.http.routes import OPERATIONS


def build_app(gateway: Gateway) -> Starlette:
    """Builds the application that serves ``gateway``."""
    applications: list[Starlette] = []
    app = Starlette(
        routes=[
            Route("/openapi.json", _openapi_document),
            Route(f"{FOLDER}{{file:path}}", page_file),
            *(
                Route(
                    # Model ids may contain slashes.
                    operation.path.replace("{model}", "{model:path}"),
                    operation.handler,
                    methods=[operation.method],
                )
                for operation in OPERATIONS
            ),
        ],
        middleware=_middleware(gateway, lambda: applications[0]),
        exception_handlers={
            ClientDisconnected: _on_disconnect,
            RequestError: _on_request_error,
            HTTPException: _on_routing_error,
        },
    )
    app.router.redirect_slashes = False
    app.state.gateway = gateway
    applications.append(app)
    # A run of a former gateway may be executed before the first request.
    app.middleware_stack = app.build_middleware_stack()
    gateway.runs.on_failed = partial(store_failure, gateway)
    return app


def _middleware(gateway: Gateway, application: Callable[[], Starlette]) -> list[Middleware]:
    """Returns the middleware, outermost first."""
    settings = gateway.settings
    own_names = ("localhost", settings.node, f"{settings.node}.local", "host.docker.internal")
    return [
        Middleware(MeantPaths),
        Middleware(RequestIds),
        Middleware(UnexpectedErrors),
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_origin_regex=OWN_ORIGINS,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
        ),
        Middleware(
            HeaderCheck, max_headers=settings.max_headers, max_bytes=settings.max_headers_bytes
        ),
        Middleware(AllowedHosts, allowed=(*own_names, *settings.allowed_hosts)),
        Middleware(ForeignOrigins, allowed=settings.cors_origins),
        Middleware(KeyAuthentication, store=gateway.keys, required=gateway.requires_key),
        Middleware(UnreadBodies),
        Middleware(IdempotentRequests, gateway=gateway, application=application),
        Middleware(KeyLimitCheck, limits=gateway.rate_limits),
        Middleware(IgnoredHeader),
    ]


async def _openapi_document(request: Request) -> Response:
    return JsonResponse(DOCUMENT)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _refuse(request, error, {})


async def _on_routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = _allowed_methods(request)
    headers = {"allow": allowed} if error.status_code == 405 else {}
    return _refuse(request, routing_error(request, error, allowed), headers)


def _refuse(request: Request, error: RequestError, headers: dict[str, str]) -> Response:
    """Counts the error under the requested model, if the cluster has it, and returns it."""
    gateway: Gateway = request.app.state.gateway
    model = getattr(request.state, "model", "")
    gateway.count_error(error, model if model in gateway.models.names() else "")
    if gateway.draining:
        # A kept-alive connection would bring the next request here, too.
        headers = {**headers, "connection": "close"}
    return error_response(error, request.scope, headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Returns a response that no client reads; Starlette needs one."""
    return Response(status_code=499)


def _allowed_methods(request: Request) -> str:
    """Returns the methods of all routes of a path; Starlette names those of one route."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    exact = [route for route in routes if route.path == request.url.path]
    found = exact or [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    return ", ".join(sorted({method for route in found for method in route.methods or ()}))
