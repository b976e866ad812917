"""The models that clients may ask for, with their tokenizers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from pomona.errors import PomonaError, RequestError
from pomona.messages.control import Pipeline
from pomona.models import ModelFacts
from pomona_gateway.models.load_requests import ModelRequests
from pomona_gateway.pipeline.router import RouteTable
from pomona_gateway.text import LanguageModel, load_language_model

log = logging.getLogger(__name__)

RETRY_INTERVAL_S = 10.0
RETRY_AFTER_S = 5


class ModelRegistry:
    """Reads the tokenizer of every model the planner names, in a thread, as soon as it
    names it: before its weights are in memory."""

    def __init__(
        self,
        table: RouteTable,
        load: Callable[[str], LanguageModel] = load_language_model,
        requests: ModelRequests | None = None,
    ) -> None:
        self._requests = requests or ModelRequests()
        self._table = table
        self._load = load
        self._models: dict[str, LanguageModel] = {}
        self._created: dict[str, int] = {}
        self._problems: dict[str, tuple[str, float]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self) -> None:
        """Begin to read what is new in the table."""
        now = time.monotonic()
        for pipeline in self._table.pipelines.values():
            self._created.setdefault(pipeline.model, int(time.time()))
            source = pipeline.source
            failed_at = self._problems.get(source, ("", -RETRY_INTERVAL_S))[1]
            if source in self._models or source in self._tasks:
                continue
            if now - failed_at >= RETRY_INTERVAL_S:
                self._tasks[source] = asyncio.create_task(self._read(source))

    async def _read(self, source: str) -> None:
        try:
            model = await asyncio.to_thread(self._load, source)
            model.prompter.start()
            self._models[source] = model
            self._problems.pop(source, None)
        except PomonaError as error:
            self._problems[source] = (str(error), time.monotonic())
            log.error("a tokenizer cannot be read", extra={"source": source, "reason": str(error)})
        finally:
            del self._tasks[source]

    def names(self) -> list[str]:
        """The models of the cluster, those still loading included."""
        return sorted(self._table.pipelines)

    def created(self, model: str) -> int:
        """Unix time at which this gateway first heard of the model."""
        return self._created.get(model, 0)

    def context_length(self, model: str) -> int | None:
        """Tokens of prompt and reply together; None while the model is being read."""
        pipeline = self._pipeline(model)
        language = self._models.get(pipeline.source) if pipeline else None
        return _context_length(pipeline, language) if pipeline and language else None

    def facts(self, model: str) -> ModelFacts | None:
        """What its files say; None while they are being read. That is no use of it."""
        pipeline = self._pipeline(model)
        language = self._models.get(pipeline.source) if pipeline else None
        return language.facts if language else None

    def problem(self, model: str) -> str:
        """Why this gateway cannot read text for the model; empty when it can."""
        pipeline = self._pipeline(model)
        if pipeline is None or pipeline.source in self._models:
            return ""
        return self._problems.get(pipeline.source, ("its tokenizer is being read", 0.0))[0]

    def find(self, name: str) -> tuple[str, LanguageModel]:
        """The model's own name, and how it reads. Raises RequestError when there is none."""
        pipeline = self._pipeline(name)
        if pipeline is None:
            self._requests.want(name)
            if not self._table.pipelines:
                raise RequestError(
                    503,
                    "model_not_ready",
                    "no model is served yet: no planner has been heard",
                    retry_after_s=RETRY_AFTER_S,
                )
            known = ", ".join(self.names())
            raise RequestError(
                404, "model_not_found", f"there is no model {name!r}; there is {known}", "model"
            )
        model = self._models.get(pipeline.source)
        if model is None:
            raise RequestError(
                503,
                "model_not_ready",
                f"{pipeline.model} cannot answer yet: {self.problem(pipeline.model)}",
                retry_after_s=RETRY_AFTER_S,
            )
        self._requests.touch(pipeline.model)
        room = _context_length(pipeline, model)
        return pipeline.model, replace(model, context_length=room)

    def _pipeline(self, name: str) -> Pipeline | None:
        pipelines = self._table.pipelines
        by_source = (x for x in pipelines.values() if x.source == name)
        return pipelines.get(name) or next(by_source, None)

    async def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for model in self._models.values():
            await asyncio.to_thread(model.prompter.close)


def _context_length(pipeline: Pipeline, model: LanguageModel) -> int:
    """What the model can and what the planner found memory for, whichever is less."""
    return min(model.context_length, pipeline.context_length or model.context_length)
