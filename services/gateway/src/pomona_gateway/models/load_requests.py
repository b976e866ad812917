"""Which models this gateway was asked to have loaded or unloaded, and which it uses.

The planner owns which models should be loaded. A gateway says in its beacon what it was
asked, until the planner's beacon shows that it heard: nothing is lost on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pomona.errors import RequestError
from pomona.messages.control import Beacon, ModelRequest, PlannerFacts, WantedModel
from pomona.models import model_name

RETRY_AFTER_S = 5


class ModelRequests:
    """Args: changed: the next beacon should go now."""

    def __init__(self, changed: Callable[[], None] = lambda: None, on_request: bool = True) -> None:
        self._changed = changed
        self._on_request = on_request
        self._asked: dict[str, ModelRequest] = {}
        self._used: dict[str, float] = {}
        self._known: tuple[WantedModel, ...] = ()

    @property
    def pending(self) -> tuple[ModelRequest, ...]:
        """What the planner has not been heard to know yet."""
        return tuple(self._asked.values())

    @property
    def known(self) -> tuple[WantedModel, ...]:
        """The models that may be loaded."""
        return self._known

    def used(self, running: set[str]) -> dict[str, float]:
        """By model, when it was last asked something; those of ``running`` now."""
        for model in running:
            self.touch(model)
        return dict(self._used)

    def touch(self, model: str) -> None:
        self._used[model] = time.time()

    def ask(self, model: str, loaded: bool) -> str:
        """Ask the planner; ``model`` is a name or a source. What clients call the model."""
        known = self.find(model)
        name = known.name if known else model_name(model)
        self._asked[known.source if known else model] = ModelRequest(
            model, name, loaded, time.time()
        )
        self._changed()
        return name

    def on_beacon(self, beacon: Beacon) -> None:
        """Forget what the planner knows now."""
        if not isinstance(beacon.facts, PlannerFacts):
            return
        self._known = beacon.facts.models
        heard = {model.source: model.at for model in self._known}
        self._asked = {
            source: request
            for source, request in self._asked.items()
            if heard.get(source, -1.0) < request.at
        }

    def find(self, name: str) -> WantedModel | None:
        """The known model of this name or source."""
        return next((x for x in self._known if name in (x.name, x.source)), None)

    def want(self, name: str) -> None:
        """Somebody asks a model that is in no plan. Raises RequestError when it is known:
        it is being loaded, if the setting allows that."""
        model = self.find(name)
        if model is None:
            return
        if not self._on_request and not model.loaded:
            raise RequestError(
                404,
                "model_not_loaded",
                f"{model.name} is not loaded; an administrator can load it (POST /v1/models/load)",
                "model",
            )
        if not model.loaded and model.source not in self._asked:
            self.ask(model.source, True)
        raise RequestError(
            503,
            "model_loading",
            f"{model.name} is being loaded; try again in a moment",
            retry_after_s=RETRY_AFTER_S,
        )
