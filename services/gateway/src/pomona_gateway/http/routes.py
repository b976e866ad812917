"""The table of routes: method, path, handler, and what the OpenAPI document says of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona_gateway.http.admin.drains import DrainBody, UndrainBody, drain, undrain
from pomona_gateway.http.admin.health import get_model, health, list_models, metrics, readyz
from pomona_gateway.http.admin.models import ModelBody, load, pull, unload
from pomona_gateway.http.anthropic.messages import count_tokens, messages
from pomona_gateway.http.anthropic.messages_request import CountRequest, MessagesRequest
from pomona_gateway.http.dashboard.cluster import cluster, events
from pomona_gateway.http.dashboard.nodes import (
    ApproveBody,
    InviteBody,
    LogsQuery,
    RevokeBody,
    approve,
    invite,
    logs,
    nodes,
    revoke,
)
from pomona_gateway.http.dashboard.page import root_page
from pomona_gateway.http.dashboard.placement import PlacementBody, placement
from pomona_gateway.http.dashboard.plan import PlanBody, plan, plan_catalog
from pomona_gateway.http.ollama.chat import chat, generate
from pomona_gateway.http.ollama.chat_request import (
    EmbedRequest,
    OldEmbedRequest,
    OllamaChat,
    OllamaGenerate,
    ShowRequest,
)
from pomona_gateway.http.ollama.embed import embed, old_embeddings
from pomona_gateway.http.ollama.models import ps, show, tags, version
from pomona_gateway.http.openai.chat import chat_completions
from pomona_gateway.http.openai.chat_request import ChatRequest
from pomona_gateway.http.openai.completions import completions
from pomona_gateway.http.openai.completions_request import CompletionRequest
from pomona_gateway.http.openai.embeddings import EmbeddingRequest, embeddings
from pomona_gateway.http.openai.response_endpoints import (
    ItemsQuery,
    NoQuery,
    RetrieveQuery,
    delete_response,
    get_response,
    list_input_items,
)
from pomona_gateway.http.openai.response_runs import cancel_response
from pomona_gateway.http.openai.responses import input_tokens, responses
from pomona_gateway.http.openai.responses_request import InputTokensRequest, ResponsesRequest
from pomona_gateway.http.request_body import Body, Query

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        stream: media type of the streamed response; empty if there is none.
        response: media type of the response that is not streamed.
        status: status of a successful response.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response | ASGIApp]]
    body: type[Body] | None = None
    query: type[Query] | None = None
    stream: str = ""
    response: str = "application/json"
    status: int = 200


OPERATIONS = (
    Operation("GET", "/", root_page, response="text/plain"),
    Operation("GET", "/health", health),
    Operation("GET", "/readyz", readyz),
    Operation("GET", "/metrics", metrics, response="text/plain"),
    Operation("GET", "/v1/models", list_models),
    Operation("POST", "/v1/models/load", load, ModelBody, status=202),
    Operation("POST", "/v1/models/unload", unload, ModelBody, status=202),
    Operation("GET", "/v1/models/{model}", get_model),
    Operation("POST", "/v1/chat/completions", chat_completions, ChatRequest, stream=SSE),
    Operation("POST", "/v1/completions", completions, CompletionRequest, stream=SSE),
    Operation("POST", "/v1/responses", responses, ResponsesRequest, stream=SSE),
    Operation("POST", "/v1/responses/input_tokens", input_tokens, InputTokensRequest),
    Operation("GET", "/v1/responses/{response}", get_response, query=RetrieveQuery, stream=SSE),
    Operation("POST", "/v1/responses/{response}/cancel", cancel_response),
    Operation("DELETE", "/v1/responses/{response}", delete_response, query=NoQuery),
    Operation("GET", "/v1/responses/{response}/input_items", list_input_items, query=ItemsQuery),
    Operation("POST", "/v1/embeddings", embeddings, EmbeddingRequest),
    Operation("POST", "/v1/messages", messages, MessagesRequest, stream=SSE),
    Operation("POST", "/v1/messages/count_tokens", count_tokens, CountRequest),
    Operation("POST", "/api/chat", chat, OllamaChat, stream=NDJSON),
    Operation("POST", "/api/generate", generate, OllamaGenerate, stream=NDJSON),
    Operation("POST", "/api/embed", embed, EmbedRequest),
    Operation("POST", "/api/embeddings", old_embeddings, OldEmbedRequest),
    Operation("GET", "/api/tags", tags),
    Operation("GET", "/api/ps", ps),
    Operation("POST", "/api/show", show, ShowRequest),
    Operation("GET", "/api/version", version),
    Operation("GET", "/api/pomona/v1/cluster", cluster),
    Operation("GET", "/api/pomona/v1/events", events, response=SSE),
    Operation("GET", "/api/pomona/v1/plan", plan_catalog),
    Operation("POST", "/api/pomona/v1/plan", plan, PlanBody),
    Operation("POST", "/api/pomona/v1/models/pull", pull, ModelBody, status=202),
    Operation("POST", "/api/pomona/v1/drain", drain, DrainBody, status=202),
    Operation("POST", "/api/pomona/v1/undrain", undrain, UndrainBody, status=202),
    Operation("POST", "/api/pomona/v1/placement", placement, PlacementBody, status=202),
    Operation("GET", "/api/pomona/v1/nodes", nodes),
    Operation("POST", "/api/pomona/v1/nodes/invite", invite, InviteBody),
    Operation("POST", "/api/pomona/v1/nodes/approve", approve, ApproveBody),
    Operation("POST", "/api/pomona/v1/nodes/revoke", revoke, RevokeBody),
    Operation("GET", "/api/pomona/v1/logs", logs, query=LogsQuery),
)
