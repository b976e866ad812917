"""A model whose files cannot be read has failed at once, with its reason, and is tried again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pomona.errors import RequestError
from pomona.messages.control import Pipeline
from pomona_gateway.models import registry
from pomona_gateway.models.registry import ModelRegistry
from pomona_gateway.pipeline.router import RouteTable
from pomona_gateway.text import LanguageModel, load_language_model
from support.beacons import beacon_of
from support.models.tiny_model import TEMPLATE, write_tiny_model

MODEL = "tiny"


def routes(source: str) -> RouteTable:
    table = RouteTable("here")
    pipeline = Pipeline(MODEL, source, epoch=1, layer_count=2, state="forming")
    table.on_beacon(beacon_of("planner", "here", facts={"pipelines": (pipeline,)}))
    return table


async def load(models: ModelRegistry) -> None:
    """Starts the loads that are due and waits for them."""
    models.load_missing()
    async with asyncio.timeout(20):
        await models.wait_for_loads()


def spoil(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("chat_template.jinja", b"\xff\xfe", "cannot be read as UTF-8"),
        ("chat_template.jinja", b"{% if %}", "chat template is invalid in line 1"),
        ("tokenizer.json", b"{}", "tokenizer.json cannot be read"),
        ("tokenizer_config.json", b"\xff", "cannot be read as JSON"),
        ("tokenizer_config.json", b'{"chat_template": [{"template": "x"}]}', "name and template"),
        ("chat_template.json", b'{"chat_template": 7}', "name and template"),
    ],
)
def test_unreadable_file_is_the_models_failure_until_it_is_corrected(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    folder = write_tiny_model(tmp_path / MODEL)
    before = (folder / name).read_bytes() if (folder / name).is_file() else None
    spoil(folder, name, content)

    async def scenario() -> None:
        now = [0.0]
        models = ModelRegistry(routes(str(folder)), clock=lambda: now[0])
        await load(models)
        assert models.has_failed(MODEL)
        assert reason in models.problem(MODEL)
        with pytest.raises(RequestError, match="cannot answer: ") as caught:
            models.find(MODEL)
        assert (caught.value.status, caught.value.code) == (503, "model_failed")
        assert name in caught.value.message or "chat template" in caught.value.message
        if before is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(before)
        await load(models)
        assert models.has_failed(MODEL), "it was tried again before its time"
        now[0] = registry.RETRY_INTERVAL_S
        await load(models)
        assert not models.has_failed(MODEL)
        assert models.find(MODEL)[1].traits["default"].system
        await models.close()

    asyncio.run(scenario())


def test_attempts_are_further_apart_after_every_failure(
    tmp_path: Path,
) -> None:
    now = [0.0]
    attempts: list[float] = []

    def broken(source: str) -> LanguageModel:
        attempts.append(now[0])
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "as a library raises it")

    async def scenario() -> None:
        models = ModelRegistry(routes(str(tmp_path)), load=broken, clock=lambda: now[0])
        while now[0] < 80:
            await load(models)
            now[0] += 5
        assert "UnicodeDecodeError" in models.problem(MODEL)
        await models.close()

    asyncio.run(scenario())
    assert attempts == [0, 10, 30, 70]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.json", {"chat_template": TEMPLATE}),
        ("tokenizer_config.json", {"chat_template": {"default": TEMPLATE, "tool_use": "t"}}),
        ("tokenizer_config.json", {"chat_template": [{"name": "default", "template": TEMPLATE}]}),
    ],
)
def test_every_published_form_of_a_chat_template_is_read(
    tmp_path: Path, name: str, content: dict[str, object]
) -> None:
    folder = write_tiny_model(tmp_path / MODEL)
    (folder / "tokenizer_config.json").unlink()
    (folder / name).write_text(json.dumps(content))
    language = load_language_model(str(folder))
    assert language.templates["default"].source == TEMPLATE
    assert language.facts.has_chat_template


@pytest.mark.slow
def test_a_reply_ends_at_the_end_tokens_of_every_file_and_of_the_template(tmp_path: Path) -> None:
    source = TEMPLATE.replace("'<|end|>'", "'<|begin|>'")
    folder = write_tiny_model(tmp_path / MODEL, source)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 7.0}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))

    async def scenario() -> None:
        models = ModelRegistry(routes(str(folder)))
        await load(models)
        language = models.find(MODEL)[1]
        own = [language.tokenizer.added_id(name) for name in ("<|end|>", "<|begin|>")]
        assert set(language.stop_ids) == {5, 6, 7, *own}
        await models.close()

    asyncio.run(scenario())


@pytest.mark.slow
def test_numbers_written_as_floats_are_read(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / MODEL)
    config = json.loads((folder / "config.json").read_text())
    floats = {key: float(x) if type(x) is int else x for key, x in config.items()}
    before = load_language_model(str(folder))
    (folder / "config.json").write_text(json.dumps(floats))
    assert load_language_model(str(folder)).facts == before.facts


def test_a_model_that_the_planner_cannot_read_has_failed_with_the_planners_reason() -> None:
    table = RouteTable("here")
    broken = Pipeline(MODEL, "/m/broken", 0, 0, "impossible", reason="its config is damaged")
    table.on_beacon(beacon_of("planner", "here", facts={"pipelines": (broken,)}))

    async def scenario() -> None:
        models = ModelRegistry(table)
        await load(models)
        assert models.has_failed(MODEL)
        with pytest.raises(RequestError, match="its config is damaged") as caught:
            models.find(MODEL)
        assert (caught.value.status, caught.value.code) == (503, "model_failed")
        await models.close()

    asyncio.run(scenario())
