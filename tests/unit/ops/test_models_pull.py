"""``pomona models pull`` downloads a model once and checks it; ``show`` prints its facts."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Generator
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models import llama
from rich.console import Console

from pomona.errors import ConfigurationError, ModelError
from pomona.models import pinned_source
from pomona.models.store.hub_source import HubSource
from pomona.models.store.sparse_copy import SparseCopy, local_copies
from pomona_ops.commands.models.pull import pull_model
from pomona_ops.commands.models.show import facts_as_json, facts_of, print_facts
from support.doubles.hub import FakeHub, fake_hub
from support.models.folders import CONFIG, tensors_of, write_folder

NAME = "someone/small-model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    model = llama.Model(llama.ModelArgs.from_dict(CONFIG))
    mx.eval(model.parameters())
    folder = write_folder(tmp_path / "original", tensors_of(model), files=3)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "top_k": 20}))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
    with fake_hub({NAME: folder}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_a_model_is_downloaded_once_byte_for_byte(hub: FakeHub) -> None:
    result = pull_model(NAME, quiet(), quiet=False)
    original = hub.models[NAME]
    for file in original.glob("*.safetensors"):
        assert (Path(result["path"]) / file.name).read_bytes() == file.read_bytes()
    served = hub.weight_bytes()
    assert pull_model(NAME, quiet(), quiet=True)["fetched_bytes"] == 0
    assert hub.weight_bytes() == served
    (copy,) = local_copies()
    assert copy.held_bytes()[0] == copy.held_bytes()[1] == result["bytes"]


def test_a_pull_updates_to_the_hubs_version_and_keeps_the_copy_without_a_hub(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pull_model(NAME, quiet(), quiet=True)
    assert pinned_source(NAME) == f"{NAME}@{old['version']}"
    changed = tmp_path / "changed"
    shutil.copytree(hub.models[NAME], changed)
    (changed / "generation_config.json").write_text(json.dumps({"temperature": 0.1}))
    commit = hub.push(NAME, changed)
    assert facts_of(NAME).sampling["temperature"] == 0.7
    new = pull_model(NAME, quiet(), quiet=True)
    assert pinned_source(NAME) == f"{NAME}@{commit}" == f"{NAME}@{new['version']}"
    assert facts_of(NAME).sampling == {"temperature": 0.1}
    assert facts_of(f"{NAME}@{old['version']}").sampling["temperature"] == 0.7
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert pull_model(NAME, quiet(), quiet=True)["fetched_bytes"] == 0


def test_a_file_with_a_wrong_hash_is_downloaded_again(hub: FakeHub) -> None:
    copy = SparseCopy.create(NAME, [HubSource()])
    file = copy.weight_files()[0]
    end = copy.manifest.files[file].size
    (begin, _) = copy.missing_in_file(file)[0]
    copy.write(file, begin, b"\1" * (end - begin - 10))
    with pytest.raises(ModelError, match=rf"{file} does not match the hash"):
        pull_model(NAME, quiet(), quiet=True)
    pull_model(NAME, quiet(), quiet=True)
    assert (copy.folder / file).read_bytes() == (hub.models[NAME] / file).read_bytes()


def test_anything_but_a_hub_id_is_rejected(hub: FakeHub) -> None:
    with pytest.raises(ConfigurationError, match="not a Hugging Face id"):
        pull_model("/some/folder", quiet(), quiet=True)


def test_show_prints_the_same_facts_as_text_and_json(hub: FakeHub) -> None:
    facts = facts_of(NAME)
    printed = facts_as_json(facts)
    assert printed["sampling"] == {"temperature": 0.7, "top_k": 20.0}
    assert printed["layer_count"] == CONFIG["num_hidden_layers"] == len(printed["layers"])
    assert printed["kv_bytes_per_token"] == 2 * 2 * 2 * 32 * 8
    output = io.StringIO()
    print_facts(facts, Console(file=output, width=120))
    assert NAME in output.getvalue()
    assert "0 to 7" in output.getvalue()
    assert "temperature 0.7" in output.getvalue()
