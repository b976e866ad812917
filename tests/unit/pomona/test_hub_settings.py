"""The settings of the hub come from a file that only the account of the services can read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pomona.models.store.sparse_copy import models_dir
from pomona.settings import ServiceSettings, apply_hub_settings, read_settings, settings_or_exit

FILE = 'models_dir = "/srv/models"\nhf_home = "/srv/hf"\nhf_token = "hf_secret"\n'
VARIABLES = ("POMONA_MODELS_DIR", "HF_HOME", "HF_TOKEN")


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in VARIABLES:
        # Set first, so that what the code under test sets is undone.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    path = tmp_path / "pomona.toml"
    path.write_text(f'state_dir = "{tmp_path / "state"}"\n{FILE}')
    path.chmod(0o600)
    monkeypatch.setenv("POMONA_SETTINGS", str(path))
    return path


def test_folders_and_token_of_the_file_reach_the_store_and_the_hub(settings_file: Path) -> None:
    apply_hub_settings(read_settings(ServiceSettings))
    assert models_dir() == Path("/srv/models")
    assert (os.environ["HF_HOME"], os.environ["HF_TOKEN"]) == ("/srv/hf", "hf_secret")


def test_a_variable_takes_precedence(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/mine")
    apply_hub_settings(read_settings(ServiceSettings))
    assert os.environ["HF_HOME"] == "/mine"


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_token_that_others_can_read_is_refused(
    settings_file: Path, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_file.chmod(mode)
    with pytest.raises(SystemExit):
        settings_or_exit(ServiceSettings)
    told = capsys.readouterr().err
    assert f"chmod 600 {settings_file}" in told
    assert "hf_secret" not in told


def test_a_token_is_not_shown(settings_file: Path) -> None:
    assert "hf_secret" not in repr(read_settings(ServiceSettings))
