"""Folders that a worker reads: those that its own machine names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pomona.errors import ModelNotFoundError
from pomona.models import sources
from pomona_stage_worker.loading.readable_folders import ReadableFolders


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def limited(model: Path) -> Iterator[ReadableFolders]:
    folders = ReadableFolders([model.parent])
    sources.limit_paths(folders.may_open)
    yield folders
    sources.limit_paths(lambda _: True)


def test_a_folder_of_the_settings_is_read(limited: ReadableFolders, model: Path) -> None:
    assert sources.resolve(str(model)) == model


def test_another_folder_is_read_only_when_a_planner_of_this_machine_names_it(
    limited: ReadableFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "copies"))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="POMONA_STAGE_WORKER_MODEL_FOLDERS"):
        sources.resolve(str(secret))
    limited.on_plan([str(secret)])
    assert sources.resolve(str(secret)) == secret


def test_a_link_does_not_lead_out_of_the_folders(
    limited: ReadableFolders, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (model.parent / "link").symlink_to(tmp_path / "secret")
    assert not limited.may_open(model.parent / "link")
    assert not limited.may_open(model.parent / ".." / "secret")
