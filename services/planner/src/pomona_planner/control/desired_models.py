"""Models that should be loaded: those of the settings, then as requests to a gateway change it.

Pure functions. The newest request for a model wins: a gateway numbers a request above every
decision that the planner has published, so that no clock decides. Gateways repeat a request in
every beacon until the planner's beacon shows it, so none is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pomona.messages.control import ModelRequest, WantedModel
from pomona.messages.limits import MAX_KNOWN_MODELS, MAX_PIPELINES

MAX_AHEAD = 2.0**32
"""Maximum distance of a believed request from the newest decision. Earlier versions numbered
decisions by Unix time, in seconds."""


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
        """Sources of the models that should be loaded, oldest first, as many as a plan can have."""
        return [source for source, model in self.models.items() if model.loaded][:MAX_PIPELINES]

    @property
    def newest(self) -> float:
        """Place of the newest decision."""
        return max((model.at for model in self.models.values()), default=0.0)


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
    limit = desired.newest + MAX_AHEAD
    for request in sorted(requests, key=lambda request: request.at):
        if request.at > limit:
            continue
        source = _source_of(models, request.model)
        known = models.get(source)
        if known is None and not _make_room(models):
            continue
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
            stay as they are. A time in the future counts as ``now``.
    """
    models = {
        source: replace(model, loaded=False, at=desired.newest + 1)
        if model.loaded and source in used and now - min(used[source], now) > idle_s
        else model
        for source, model in desired.models.items()
    }
    return desired if models == desired.models else replace(desired, models=models)


def _source_of(models: Mapping[str, WantedModel], requested: str) -> str:
    """Returns the source of a model that a request names by its name or by its source."""
    return next((x.source for x in models.values() if requested in (x.source, x.name)), requested)


def _make_room(models: dict[str, WantedModel]) -> bool:
    """Forgets the oldest unloaded model if as many are known as there may be.

    Returns:
        False when all should be loaded, so another one has no room.
    """
    if len(models) < MAX_KNOWN_MODELS:
        return True
    unloaded = min((x for x in models.values() if not x.loaded), key=lambda x: x.at, default=None)
    if unloaded is not None:
        del models[unloaded.source]
    return unloaded is not None
