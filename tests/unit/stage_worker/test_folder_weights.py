"""Loading a stage from a folder of safetensors, in every quantisation of MLX.

Only the stage's own tensors are read. Errors name the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import psutil
import pytest
from mlx_lm.models import llama, mixtral
from rich.console import Console

from pomona import host
from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models import read_facts
from pomona.models.formats.safetensors_index import read_tensor_places
from pomona_ops.commands.models.show import print_facts
from pomona_stage_worker.hardware.cpu_matrix_layout import COLD_BYTES, loaded_parts
from pomona_stage_worker.loading import assemble, read_weights
from pomona_stage_worker.loading.folder_weights import FolderWeights
from support.models.folders import CONFIG, tensors_of, write_folder

TOKENS = mx.array([[3, 17, 101, 5, 44, 9, 80, 2]])
LAYERS = CONFIG["num_hidden_layers"]
MOE = {**CONFIG, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


def ignore_progress(done: int, total: int, fetching: bool = False) -> None:
    pass


def random_model(config: dict[str, Any] = CONFIG) -> Any:
    module: Any = mixtral if config["model_type"] == "mixtral" else llama
    mx.random.seed(4)
    model = module.Model(module.ModelArgs.from_dict(config))

    def drawn(array: mx.array) -> mx.array:
        return mx.random.normal(array.shape) * 0.1 if array.ndim > 1 else array

    model.apply(drawn)
    mx.eval(model.parameters())
    model.eval()
    return model


def logits_of(path: Path, bounds: tuple[int, ...]) -> mx.array:
    """Returns the logits of consecutive stages, each with only its own weights."""
    activations: Any = None
    for start, stop in pairwise(bounds):
        stage = assemble(read_weights(str(path), start, stop, ignore_progress))
        activations = stage(TOKENS, activations, stage.make_cache())
        mx.eval(activations)
    return activations


MODES: dict[str, dict[str, Any]] = {
    **{f"affine {bits}": {"bits": bits, "group_size": 64} for bits in (2, 3, 4, 5, 6, 8)},
    "affine 4 groups of 32": {"bits": 4, "group_size": 32},
    "mxfp4": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    "mxfp8": {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    "nvfp4": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
}


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, MOE], ids=["dense", "experts"])
@pytest.mark.parametrize("mode", MODES)
def test_logits_of_a_quantised_model_equal_mlx_lms(
    mode: str, config: dict[str, Any], tmp_path: Path
) -> None:
    model = random_model(config)
    nn.quantize(model, **MODES[mode])
    write_folder(tmp_path, tensors_of(model), {**config, "quantization": MODES[mode]}, files=3)
    expected = model(TOKENS)
    assert mx.allclose(logits_of(tmp_path, (0, 3, LAYERS)), expected, rtol=1e-3, atol=2e-3)
    count = sum(int(x.size) for x in tensors_of(random_model(config)).values())
    assert read_facts(str(tmp_path)).parameters == count


def test_counts_written_as_floats_are_read(tmp_path: Path) -> None:
    model = random_model()
    written = {key: float(x) if type(x) is int else x for key, x in CONFIG.items()}
    write_folder(tmp_path, tensors_of(model), written)
    assert mx.allclose(logits_of(tmp_path, (0, LAYERS)), model(TOKENS), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_layers_keep_their_own_quantisation_modes(tied: bool, tmp_path: Path) -> None:
    config = {**CONFIG, "tie_word_embeddings": tied}
    model = random_model(config)
    quantization: dict[str, Any] = {"group_size": 64, "bits": 4}

    def own(path: str, module: nn.Module) -> Any:
        if not hasattr(module, "to_quantized") or "layers.2." in path:
            return False
        if "down_proj" in path or "embed" in path:
            quantization[path] = {"group_size": 32, "bits": 8}
            return quantization[path]
        return True

    nn.quantize(model, 64, 4, class_predicate=own)
    write_folder(tmp_path, tensors_of(model), {**config, "quantization": quantization}, files=2)
    got = logits_of(tmp_path, (0, 2, LAYERS))
    assert mx.allclose(got, model(TOKENS), rtol=1e-3, atol=2e-3)


def test_separate_experts_are_stacked_for_owned_layers_only(tmp_path: Path) -> None:
    model = random_model(MOE)
    stored: dict[str, mx.array] = {}
    for name, array in tensors_of(model).items():
        if ".switch_mlp." not in name:
            stored[name] = array
            continue
        for own, short in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
            for expert in range(4 if f".{own}." in name else 0):
                new = name.replace(f"switch_mlp.{own}", f"experts.{expert}.{short}")
                stored[new] = array[expert]
    write_folder(tmp_path, stored, MOE, files=5)
    assert mx.allclose(logits_of(tmp_path, (0, 3, LAYERS)), model(TOKENS), rtol=1e-4, atol=1e-4)
    weights = FolderWeights(tmp_path)
    lazy = weights.make_model()
    owned = {name: array for name, array in tensors_of(lazy.model).items() if ".layers.1." in name}
    needed = weights.tensors_of(lazy, owned.values())
    assert needed == {name for name in stored if ".layers.1." in name}
    facts = read_facts(str(tmp_path))
    routed = sum(
        int(x.size) for name, x in stored.items() if ".layers.1.block_sparse_moe.e" in name
    )
    assert facts.layers[1].idle_parameters == routed // 2


MEASURE = """
import json, sys, threading, time, psutil
from pomona_stage_worker.hardware.mlx_lm_import import import_mlx_lm
import_mlx_lm()
import mlx.core as mx
from pomona_stage_worker.loading import read_weights
from pomona_stage_worker.loading.loader import _owned
from pomona_stage_worker.loading.folder_weights import FolderWeights
import mlx_lm.models.llama, tempfile
path, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
_owned(FolderWeights(__import__("pathlib").Path(path)).make_model().model, 0, 1)
process = psutil.Process()
before, read = process.memory_info().rss, process.io_counters().read_chars
mx.reset_peak_memory()
peak, going = [before], [True]
def watch():
    while going[0]:
        peak[0] = max(peak[0], process.memory_info().rss)
        time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
weights = read_weights(
    path, start, stop, lambda a, b: None, cpu_layout=not mx.metal.is_available()
)
going[0] = False; thread.join()
print(json.dumps({
    "held": weights.nbytes, "peak": mx.get_peak_memory(), "rss": peak[0] - before,
    "read": process.io_counters().read_chars - read,
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not host.is_linux(), reason="counts bytes by /proc")
@pytest.mark.parametrize(("start", "stop"), [(0, 3), (3, 6), (5, 8)])
def test_loading_reads_and_holds_little_more_than_the_stages_bytes(
    start: int, stop: int, tmp_path: Path
) -> None:
    config = {**CONFIG, "hidden_size": 768, "intermediate_size": 2048, "head_dim": 192}
    model = random_model(config)
    model.set_dtype(mx.bfloat16)
    tensors = tensors_of(model)
    write_folder(tmp_path, tensors, config, files=7)
    own = [f"model.layers.{i}." for i in range(start, stop)]
    own += ["model.embed_tokens."] if start == 0 else []
    own += ["model.norm.", "lm_head."] if stop == LAYERS else []
    share = sum(int(x.nbytes) for n, x in tensors.items() if n.startswith(tuple(own)))
    del model, tensors
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(start), str(stop)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    float32 = 1 if mx.metal.is_available() else 2
    assert seen["held"] == float32 * share
    # Beyond the tensors a few headers, and what the watching of /proc itself reads.
    assert seen["read"] <= 1.05 * share
    # A matrix is laid out anew once it was read: for that moment there are two of it. How they
    # should lie is tried with copies.
    assert seen["peak"] <= 1.1 * seen["held"] + COLD_BYTES
    assert seen["rss"] <= 1.15 * seen["held"] + COLD_BYTES + (8 << 20)


@pytest.mark.slow
def test_weights_in_memory_are_reused_and_those_of_other_layers_freed(tmp_path: Path) -> None:
    write_folder(tmp_path, tensors_of(random_model()))
    first = read_weights(str(tmp_path), 0, 4, ignore_progress, cpu_layout=True)
    arrays = dict(first.arrays)
    second = read_weights(str(tmp_path), 2, 6, ignore_progress, first, cpu_layout=True)
    name = "model.layers.3.mlp.up_proj.weight"
    assert loaded_parts(second.arrays, name)
    assert all(second.arrays[known] is x for known, x in loaded_parts(arrays, name).items())
    assert not any(".layers.1." in name for name in second.arrays)
    assert not first.arrays, "nothing keeps the layers that the second range lacks"


def test_a_stage_of_the_same_layers_is_taken_as_it_is_and_freed_for_others(tmp_path: Path) -> None:
    write_folder(tmp_path, tensors_of(random_model()), CONFIG)
    first = read_weights(str(tmp_path), 0, 2, ignore_progress)
    stage = assemble(first)
    again = read_weights(str(tmp_path), 0, 2, ignore_progress, first)
    assert again is first
    assert assemble(again) is stage
    freed = weakref.ref(stage)
    del stage
    other = read_weights(str(tmp_path), 0, 3, ignore_progress, first)
    assert freed() is None
    assert (first.arrays, first.model) == ({}, None)
    assert assemble(other).stop == 3


def test_a_loaded_stage_keeps_no_weight_file_open(tmp_path: Path) -> None:
    write_folder(tmp_path, tensors_of(random_model()), files=30)
    stage = assemble(read_weights(str(tmp_path), 2, 5, ignore_progress))
    opened = [file.path for file in psutil.Process().open_files()]
    assert not [path for path in opened if path.endswith(".safetensors")]
    sent = stage(TOKENS, mx.zeros((1, TOKENS.shape[1], CONFIG["hidden_size"])), stage.make_cache())
    mx.eval(sent)


# What is wrong is said ------------------------------------------------------------------


def _last_file(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[-1]


def _truncate(folder: Path) -> None:
    file = _last_file(folder)
    file.write_bytes(file.read_bytes()[:-1000])


def _remove(folder: Path) -> None:
    _last_file(folder).unlink()


def _garbage(folder: Path) -> None:
    _last_file(folder).write_bytes(b"\xff" * 4096)


def _empty(folder: Path) -> None:
    _last_file(folder).write_bytes(b"")


def _wrong_shape(folder: Path) -> None:
    file = _last_file(folder)
    tensors: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
    name = next(iter(sorted(tensors)))
    tensors[name] = mx.zeros((3, 5))
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors)


def _lacks_tensor(folder: Path) -> None:
    file = _last_file(folder)
    tensors: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
    del tensors["model.norm.weight"]
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors)


def _never_had_tensor(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    names = json.loads(index.read_text())
    del names["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(names))
    _lacks_tensor(folder)


def _own_code(folder: Path) -> None:
    _set(folder, model_file="evil.py")


def _unknown_type(folder: Path) -> None:
    _set(folder, model_type="nonesuch")


def _unknown_code(folder: Path) -> None:
    _set(folder, model_type="nonesuch", auto_map={"AutoModel": "evil.Model"})


def _only_executable(folder: Path) -> None:
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never")


def _no_type(folder: Path) -> None:
    _set(folder, model_type="")


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _set(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"model-00003-of-00003\.safetensors is cut short: .* from tensor \S+ on"),
        (_remove, r"model-00003-of-00003\.safetensors is missing; it holds \S+"),
        (_garbage, r"model-00003-of-00003\.safetensors is damaged"),
        (_empty, r"model-00003-of-00003\.safetensors is damaged"),
        (_wrong_shape, r"model-00003-of-00003\.safetensors: tensor \S+ cannot be loaded: .*shape"),
        (_lacks_tensor, r"model-00003-of-00003\.safetensors lacks the tensor model\.norm\.weight"),
        (_own_code, r"config\.json asks to run evil\.py, and Pomona never runs"),
        (_never_had_tensor, r"no tensor for model\.norm\.weight in model-00001-of-00003\.saf"),
        (_unknown_type, "nonesuch not supported"),
        (_unknown_code, r"nonesuch not supported.*\(auto_map\), which is never run"),
        (_only_executable, r"no safetensors file; pytorch_model\.bin may hold code"),
        (_no_type, r"config\.json has no model_type"),
        (_no_json, r"config\.json cannot be read as JSON"),
    ],
)
def test_loading_errors_name_file_and_tensor(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, tensors_of(random_model()), files=3)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        read_weights(str(tmp_path), 0, 1, ignore_progress)


def test_the_error_names_a_file_truncated_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, tensors_of(random_model()), files=3)
    make_model = FolderWeights.make_model

    def shrinking(self: FolderWeights) -> Any:
        lazy = make_model(self)
        for file in tmp_path.glob("*.safetensors"):
            with file.open("r+b") as opened:
                opened.truncate(file.stat().st_size // 2)
        return lazy

    monkeypatch.setattr(FolderWeights, "make_model", shrinking)
    with pytest.raises(ModelError, match="safetensors"):
        read_weights(str(tmp_path), 0, LAYERS, ignore_progress)


def test_code_in_a_model_folder_never_runs(tmp_path: Path) -> None:
    write_folder(tmp_path, tensors_of(random_model()))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    _set(tmp_path, model_file="evil.py", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ModelUnsupportedError):
        read_weights(str(tmp_path), 0, 1, ignore_progress)
    with pytest.raises(ModelUnsupportedError):
        read_facts(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_unneeded_code_of_a_known_architecture_is_reported_and_never_runs(tmp_path: Path) -> None:
    write_folder(tmp_path, tensors_of(random_model()))
    _set(tmp_path, auto_map={"AutoModel": "evil.Model"}, trust_remote_code=True)
    custom = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(custom))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never")
    facts = read_facts(str(tmp_path))
    assert facts.unused_code == ("config.json", "evil.py", "tokenizer_config.json")
    output = StringIO()
    print_facts(facts, Console(file=output, width=200))
    assert "code in config.json, evil.py, tokenizer_config.json" in output.getvalue()
    assemble(read_weights(str(tmp_path), 0, 1, ignore_progress))
    assert not (tmp_path / "ran").exists()


def test_a_model_class_that_exits_the_process_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, tensors_of(random_model()))

    def leave(*_: Any, **__: Any) -> Any:
        raise SystemExit(1)

    monkeypatch.setattr(mlx_lm.utils, "load_model", leave)
    with pytest.raises(ModelError, match="ends the process"):
        read_weights(str(tmp_path), 0, 1, ignore_progress)


def test_an_index_that_points_outside_its_folder_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, tensors_of(random_model()), files=2)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002", "../model-00002"))
    with pytest.raises(ModelError, match="outside its folder"):
        read_tensor_places(tmp_path)
