"""Models that should be loaded: those of the settings, then as requests to a gateway change it.

Pure functions. The newest request for a model wins. Gateways repeat a request in every beacon
until the planner's beacon shows it, so none is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pomona.messages.control import ModelRequest, WantedModel


@dataclass(frozen=True, slots=True)
class DesiredModels:
    """Desired state of each known model.

    Attributes:
        settings: sources that the settings named when this was written.
        models: newest request for each model, by source.
    """

    settings: tuple[str, ...] = ()
    models: Mapping[str, WantedModel] = field(default_factory=dict[str, WantedModel])

    @property
    def loaded(self) -> list[str]:
        """Sources of the models that should be loaded, oldest first."""
        return [source for source, model in self.models.items() if model.loaded]


def initial_models(
    settings: tuple[str, ...], known: Iterable[tuple[str, str]], saved: DesiredModels | None
) -> DesiredModels:
    """Returns the desired models at the planner's start.

    Saved requests still count, unless the settings name other models than when they were saved.

    Args:
        known: (name, source) of models that may be loaded, those of the settings first.
    """
    models: dict[str, WantedModel] = {}
    if saved is not None and saved.settings == settings:
        models |= saved.models
    for name, source in known:
        if source not in models:
            models[source] = WantedModel(name, source, source in settings, 0.0)
    return DesiredModels(settings, models)


def apply_requests(desired: DesiredModels, requests: Iterable[ModelRequest]) -> DesiredModels:
    """Applies a gateway's requests. Returns the same object when none is new."""
    models = dict(desired.models)
    for request in sorted(requests, key=lambda request: request.at):
        source = _source_of(models, request.model)
        known = models.get(source)
        if known is None or known.at < request.at:
            name = known.name if known else request.name
            models[source] = WantedModel(name, source, request.loaded, request.at)
    return desired if models == desired.models else replace(desired, models=models)


def unload_idle(
    desired: DesiredModels, used: Mapping[str, float], idle_s: float, now: float
) -> DesiredModels:
    """Unloads the models that were idle for more than ``idle_s`` seconds.

    All times are Unix times in seconds.

    Args:
        used: time of last use, or at which the model became ready, by source; other models
            stay as they are.
    """
    models = {
        source: replace(model, loaded=False, at=now)
        if model.loaded and source in used and now - max(used[source], model.at) > idle_s
        else model
        for source, model in desired.models.items()
    }
    return desired if models == desired.models else replace(desired, models=models)


def _source_of(models: Mapping[str, WantedModel], requested: str) -> str:
    """Returns the source of a model that a request names by its name or by its source."""
    return next((x.source for x in models.values() if requested in (x.source, x.name)), requested)
