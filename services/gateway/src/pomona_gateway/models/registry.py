"""Models that clients may use, with their tokenizers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pomona.errors import PomonaError, RequestError
from pomona.messages.control import Pipeline
from pomona.models import ModelFacts
from pomona_gateway.models.load_requests import LoadRequests
from pomona_gateway.models.names import aliased, find_name
from pomona_gateway.pipeline.router import RouteTable
from pomona_gateway.text import LanguageModel, load_language_model, probe_language_model

log = logging.getLogger(__name__)

RETRY_INTERVAL_S = 10.0
MAX_RETRY_INTERVAL_S = 600.0
"""Seconds before a failed load is tried again; doubled by every failure up to the maximum."""
RETRY_AFTER_S = 5
LOADS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failed load. ``retry_at``: clock time of the next one."""

    reason: str
    retry_at: float
    interval_s: float


class ModelRegistry:
    """Loads the tokenizer of every planned model in a thread.

    A tokenizer is loaded as soon as the planner plans its model, before the weights are.

    Args:
        aliases: names of models by pattern.
        unknown_is_loaded: a name that is not known means the first model with a tokenizer.
    """

    def __init__(
        self,
        routes: RouteTable,
        load: Callable[[str], LanguageModel] = load_language_model,
        requests: LoadRequests | None = None,
        aliases: Mapping[str, str] | None = None,
        unknown_is_loaded: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._aliases = aliases or {}
        self._unknown_is_loaded = unknown_is_loaded
        self._clock = clock
        self._requests = requests or LoadRequests()
        self._routes = routes
        self._load = load
        self._models: dict[str, LanguageModel] = {}
        self._created: dict[str, int] = {}
        self._failures: dict[str, _Failure] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Slow loads must not take the threads that requests need.
        self._threads = ThreadPoolExecutor(LOADS_AT_ONCE, thread_name_prefix="model-load")

    def load_missing(self) -> None:
        """Starts to load the tokenizers of planned models that are not loaded."""
        now = self._clock()
        for pipeline in self._routes.pipelines.values():
            self._created.setdefault(pipeline.model, int(time.time()))
            source = pipeline.source
            failure = self._failures.get(source)
            if source in self._models or source in self._tasks or _is_unreadable(pipeline):
                continue
            if failure is None or now >= failure.retry_at:
                self._tasks[source] = asyncio.create_task(self._load_model(source))

    async def _load_model(self, source: str) -> None:
        model = None
        try:
            loop = asyncio.get_running_loop()
            model = await loop.run_in_executor(self._threads, self._load, source)
            self._models[source] = await loop.run_in_executor(
                self._threads, probe_language_model, model
            )
            self._failures.pop(source, None)
        except PomonaError as error:
            self._record_failure(source, str(error))
        except Exception as error:  # libraries raise anything while they read a model's files
            self._record_failure(
                source, f"the files of {source} cannot be read: {type(error).__name__}: {error}"
            )
        finally:
            if model is not None and source not in self._models:
                await asyncio.to_thread(model.prompter.close)
            del self._tasks[source]

    def _record_failure(self, source: str, reason: str) -> None:
        last = self._failures.get(source)
        wait_s = RETRY_INTERVAL_S if last is None else 2 * last.interval_s
        wait_s = min(wait_s, MAX_RETRY_INTERVAL_S)
        self._failures[source] = _Failure(reason, self._clock() + wait_s, wait_s)
        log.error("cannot load a tokenizer", extra={"source": source, "reason": reason})

    async def wait_for_loads(self) -> None:
        """Waits for the loads that are running."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def names(self) -> list[str]:
        """Returns the names of all planned models and of those that a request loads, sorted."""
        return sorted({*self._routes.pipelines, *self._requests.loadable()})

    def source(self, model: str) -> str:
        """Returns the source of one of ``names()``."""
        pipeline = self._routes.pipelines.get(model)
        return pipeline.source if pipeline else self._requests.loadable().get(model, "")

    def created(self, model: str) -> int:
        """Returns the Unix time at which this gateway first knew a model; 0 if it does not."""
        if model in self._requests.loadable():
            self._created.setdefault(model, int(time.time()))
        return self._created.get(model, 0)

    def context_length(self, model: str) -> int | None:
        """Returns the maximum tokens of prompt and reply; None before the tokenizer is loaded."""
        pipeline = self.planned(model)
        language = self._models.get(pipeline.source) if pipeline else None
        return _context_length(pipeline, language) if pipeline and language else None

    def facts(self, model: str) -> ModelFacts | None:
        """Returns the facts of a model; None before its tokenizer is loaded."""
        pipeline = self.planned(model)
        language = self._models.get(pipeline.source) if pipeline else None
        return language.facts if language else None

    def problem(self, model: str) -> str:
        """Explains why this gateway has no tokenizer for a model; empty when it has one."""
        pipeline = self.planned(model)
        if pipeline is None or pipeline.source in self._models:
            return ""
        if _is_unreadable(pipeline):
            return pipeline.reason
        failure = self._failures.get(pipeline.source)
        return failure.reason if failure else "its tokenizer is being read"

    def has_failed(self, model: str) -> bool:
        """Returns whether the last attempt to read a model failed, here or in the planner."""
        pipeline = self.planned(model)
        if pipeline is None or pipeline.source in self._models:
            return False
        return _is_unreadable(pipeline) or pipeline.source in self._failures

    def find(self, name: str) -> tuple[str, LanguageModel]:
        """Finds a model by name or source, and records its use.

        Returns:
            The model's name, and its language model with the context length of its pipeline.

        Raises:
            RequestError: there is no such model, or it is not ready.
        """
        pipeline = self.planned(name)
        if pipeline is None:
            self._requests.load_unplanned(aliased(name, self._aliases))
            if not self._routes.pipelines:
                raise RequestError(
                    503,
                    "model_not_ready",
                    "no model is served yet: no planner is known",
                    retry_after_s=RETRY_AFTER_S,
                )
            known = ", ".join(self.names())
            raise RequestError(
                404, "model_not_found", f"there is no model {name!r}; there is {known}", "model"
            )
        model = self._models.get(pipeline.source)
        if model is None:
            failure = self._failures.get(pipeline.source)
            failed = self.has_failed(pipeline.model)
            wait_s = failure.retry_at - self._clock() if failure else RETRY_AFTER_S
            raise RequestError(
                503,
                "model_failed" if failed else "model_not_ready",
                f"{pipeline.model} cannot answer{'' if failed else ' yet'}: "
                f"{self.problem(pipeline.model)}",
                retry_after_s=max(1, round(wait_s)),
            )
        self._requests.record_use(pipeline.model)
        return pipeline.model, replace(model, context_length=_context_length(pipeline, model))

    def planned(self, name: str) -> Pipeline | None:
        """Returns the pipeline of a model by its name or source; None if none is planned."""
        pipelines = self._routes.pipelines
        sources = {known: pipeline.source for known, pipeline in pipelines.items()}
        found = find_name(name, sources, self._aliases)
        meant = aliased(name, self._aliases)
        if found is None and self._unknown_is_loaded and self._requests.find(meant) is None:
            loaded = (x for x in self.names() if pipelines[x].source in self._models)
            found = next(loaded, None)
        return pipelines[found] if found is not None else None

    async def close(self) -> None:
        """Cancels running loads and ends the prompt processes."""
        for task in list(self._tasks.values()):
            task.cancel()
        await self.wait_for_loads()
        for model in self._models.values():
            await asyncio.to_thread(model.prompter.close)
        self._threads.shutdown(wait=False)


def _is_unreadable(pipeline: Pipeline) -> bool:
    """Tells whether the planner could not read the model's files; ``reason`` explains why."""
    return pipeline.state == "impossible" and pipeline.layer_count == 0


def _context_length(pipeline: Pipeline, model: LanguageModel) -> int:
    """Returns the lower one of the model's limit and that of the planned KV memory."""
    return min(model.context_length, pipeline.context_length or model.context_length)
