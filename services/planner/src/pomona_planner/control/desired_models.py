"""Which models should be loaded: what the settings say, then what was asked of a gateway.

Pure. The newest word on a model counts. Gateways repeat what they were asked in every
beacon until they hear here that it is known, so nothing is lost on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pomona.messages.control import ModelRequest, WantedModel


@dataclass(frozen=True, slots=True)
class DesiredModels:
    """Attributes:
    settings: the models of the settings when this was written.
    models: the newest word on each model, by source.
    """

    settings: tuple[str, ...] = ()
    models: Mapping[str, WantedModel] = None  # type: ignore[assignment]  # see first_wants

    @property
    def loaded(self) -> list[str]:
        """Sources of the models that should be loaded, in the order they were wanted in."""
        return [source for source, model in self.models.items() if model.loaded]


def first_wants(
    settings: tuple[str, ...], known: Iterable[tuple[str, str]], remembered: DesiredModels | None
) -> DesiredModels:
    """What is wanted when the planner starts.

    What was asked before it started still counts, unless the operator has named other
    models since.

    Args:
        known: (name, source) of models that may be loaded, those of the settings first.
    """
    models: dict[str, WantedModel] = {}
    same = remembered is not None and remembered.settings == settings
    if remembered is not None and same:
        models |= remembered.models
    for name, source in known:
        if source not in models:
            models[source] = WantedModel(name, source, source in settings, 0.0)
    return DesiredModels(settings, models)


def hear(wants: DesiredModels, requests: Iterable[ModelRequest]) -> DesiredModels:
    """Take in what a gateway was asked. The same object when nothing is new."""
    models = dict(wants.models)
    for request in sorted(requests, key=lambda request: request.at):
        source = _source_of(models, request.model)
        known = models.get(source)
        if known is None or known.at < request.at:
            name = known.name if known else request.name
            models[source] = WantedModel(name, source, request.loaded, request.at)
    return wants if models == wants.models else replace(wants, models=models)


def unload_idle(
    wants: DesiredModels, used: Mapping[str, float], idle_s: float, now: float
) -> DesiredModels:
    """Want no longer what nobody has used for ``idle_s`` seconds.

    Args:
        used: by source, when it was last used or became ready; a model that is not in it is
            left alone.
        now: Unix time in seconds, as all times here.
    """
    models = {
        source: replace(model, loaded=False, at=now)
        if model.loaded and source in used and now - max(used[source], model.at) > idle_s
        else model
        for source, model in wants.models.items()
    }
    return wants if models == wants.models else replace(wants, models=models)


def _source_of(models: Mapping[str, WantedModel], asked: str) -> str:
    """Clients may name a model by its name or its source."""
    return next((x.source for x in models.values() if asked in (x.source, x.name)), asked)
