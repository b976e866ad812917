"""Requests to load and unload models, and the last use of each model.

The planner decides which models are loaded. A gateway states requests in its beacon until the
planner's beacon includes them, so that no request is lost. Each is numbered above the decisions
that the planner has published; the clocks of the machines do not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from pomona.errors import RequestError
from pomona.messages.control import Beacon, ModelRequest, PlannerFacts, WantedModel
from pomona.messages.limits import MAX_KNOWN_MODELS
from pomona.models import model_name
from pomona_gateway.models.names import find_name

RETRY_AFTER_S = 5
MAX_PENDING = 64
"""Maximum number of requests that the planner has not confirmed."""


class LoadRequests:
    """Load and unload requests that this gateway states.

    Args:
        on_change: called when the next beacon should be sent at once.
        load_on_request: a request for an unloaded model loads it.
    """

    def __init__(
        self, on_change: Callable[[], None] = lambda: None, load_on_request: bool = True
    ) -> None:
        self._on_change = on_change
        self._load_on_request = load_on_request
        self._pending: dict[str, ModelRequest] = {}
        self._heard = False
        self._last_used: dict[str, float] = {}
        self._known: tuple[WantedModel, ...] = ()

    @property
    def pending(self) -> tuple[ModelRequest, ...]:
        """Requests that the planner has not confirmed; none before it was heard, since they
        have no number yet."""
        return tuple(self._pending.values()) if self._heard else ()

    def why_nothing_is_loaded(self) -> str:
        """Explains why the planner plans no model, and what loads one."""
        if self._pending or any(model.loaded for model in self._known):
            return "the model is being loaded"
        if not self._known:
            return "no model is known: load one with POST /v1/models/load"
        if self._load_on_request:
            return "no model is loaded: the next request loads it"
        return "no model is loaded: an administrator can load one (POST /v1/models/load)"

    def last_used(self, running: set[str]) -> dict[str, float]:
        """Returns the Unix time of each model's last use: now for those of ``running``."""
        for model in running:
            self.record_use(model)
        return dict(self._last_used)

    def record_use(self, model: str) -> None:
        """Records that a client uses a model now."""
        self._last_used[model] = time.time()

    def request(self, model: str, loaded: bool) -> str:
        """Requests that the planner loads or unloads a model.

        Args:
            model: name or source of the model.

        Returns:
            The name that clients use.

        Raises:
            RequestError: too many requests wait for the planner, or too many models are known.
        """
        known = self.find(model)
        name = known.name if known else model_name(model)
        source = known.source if known else model
        full = known is None and len(self._known) >= MAX_KNOWN_MODELS
        if full or (source not in self._pending and len(self._pending) >= MAX_PENDING):
            raise RequestError(
                503,
                "too_many_models",
                "the planner has not confirmed the models requested before, or knows "
                f"{MAX_KNOWN_MODELS} already; unload one, or try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        self._pending[source] = ModelRequest(source, name, loaded, self._next_place())
        self._on_change()
        return name

    def _next_place(self) -> float:
        """Returns a place above those of all decisions and requests that this gateway knows."""
        places = (x.at for x in (*self._known, *self._pending.values()))
        return max(places, default=0.0) + 1

    def on_beacon(self, beacon: Beacon) -> None:
        """Drops the requests that the planner confirms."""
        if not isinstance(beacon.facts, PlannerFacts):
            return
        self._known = beacon.facts.models
        waiting = self._pending
        if self._heard:
            decided = {model.source: model for model in self._known}
            waiting = {
                source: request
                for source, request in waiting.items()
                if not _is_confirmed(request, decided.get(source))
            }
        numbered_before = self._heard
        self._pending, self._heard = {}, True
        for source, request in waiting.items():
            known = next((x for x in self._known if x.source == source), None)
            if not numbered_before or (known is not None and known.at >= request.at):
                request = replace(request, at=self._next_place())
            self._pending[source] = request

    def find(self, name: str) -> WantedModel | None:
        """Returns the model of this name or source, if the planner knows it."""
        sources = {model.name: model.source for model in self._known}
        found = find_name(name, sources, {})
        return next((model for model in self._known if model.name == found), None)

    def loadable(self) -> dict[str, str]:
        """Returns the sources of the unloaded models that a request would load, by name."""
        if not self._load_on_request:
            return {}
        return {model.name: model.source for model in self._known if not model.loaded}

    def load_unplanned(self, name: str) -> None:
        """Requests a known model that has no pipeline.

        Raises:
            RequestError: the planner knows the model. It loads now (503), or only an
                administrator may load it (404).
        """
        model = self.find(name)
        if model is None:
            return
        if not self._load_on_request and not model.loaded:
            raise RequestError(
                404,
                "model_not_loaded",
                f"{model.name} is not loaded; an administrator can load it (POST /v1/models/load)",
                "model",
            )
        if not model.loaded and model.source not in self._pending:
            self.request(model.source, True)
        raise RequestError(
            503,
            "model_loading",
            f"{model.name} is being loaded; try again in a moment",
            retry_after_s=RETRY_AFTER_S,
        )


def _is_confirmed(request: ModelRequest, decision: WantedModel | None) -> bool:
    """Tells whether the planner's decision includes a request, or is a newer one.

    Two gateways may number requests alike; the planner then takes one.
    """
    if decision is None or decision.at < request.at:
        return False
    return decision.at > request.at or decision.loaded == request.loaded
