"""The planner computes digests beside planning, for models that are on several machines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pomona.messages.control import Pipeline, Stage
from pomona.models.store.digest_files import kept_table
from pomona_planner.control import weight_digests
from pomona_planner.control.weight_digests import WeightDigests

DEADLINE_S = 30.0


def pipeline(source: str, *nodes: str) -> Pipeline:
    stages = tuple(
        Stage(f"{node}.stage_worker", at, at + 1, "tcp://h:1", node=node)
        for at, node in enumerate(nodes)
    )
    return Pipeline("m", source, 7, len(nodes), "forming", stages)


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not ready():  # noqa: ASYNC110  # polls, since nothing announces it
            await asyncio.sleep(0.01)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_model_on_several_machines_gets_a_digest_that_follows_its_files(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_digests, "LOOK_INTERVAL_S", 0.0)
    plan = pipeline(str(model), "here", "there")

    async def body() -> None:
        published: list[str] = []
        digests = WeightDigests("here", lambda: published.append("now"))
        digests.update([plan])
        assert digests.added_to(plan).digest == "", "a plan does not wait"
        await until(lambda: bool(digests.added_to(plan).digest))
        first = digests.added_to(plan).digest
        assert published == ["now"]
        assert kept_table(str(model), first) is not None, "a worker of this machine serves it"
        assert kept_table(str(model), first[::-1]) is None

        (model / "config.json").write_text('{"a": 1}')
        os.utime(model / "config.json", (1, 1))

        def has_changed() -> bool:
            digests.update([plan])
            return digests.added_to(plan).digest != first

        await until(has_changed)
        digests.stop()

    asyncio.run(body())


def test_a_model_on_this_machine_only_is_not_read(model: Path) -> None:
    async def body() -> None:
        digests = WeightDigests("here", lambda: None)
        digests.update([pipeline(str(model), "here", "here")])
        assert digests._task is None  # type: ignore[reportPrivateUsage]

    asyncio.run(body())
