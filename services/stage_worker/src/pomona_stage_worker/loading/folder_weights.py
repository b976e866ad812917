"""Builds mlx-lm's model from a folder of safetensors with every tensor lazy.

mlx-lm's own ``load_model`` renames tensors, stacks experts and handles every quantisation mode.
It reads the headers of the whole model only; a tensor is read when a parameter made from it is
evaluated.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm import utils as mlx_lm_utils

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models.formats.hf_folder import reject_custom_code
from pomona.models.formats.safetensors_index import read_json, read_tensor_places
from pomona_stage_worker.hardware.cpu_float32 import make_float32, on_metal
from pomona_stage_worker.loading.config_numbers import with_whole_numbers
from pomona_stage_worker.slicing import has_body

_SMALL_FILES = ("config.json", "generation_config.json", "hf_quant_config.json")
_MISSING = re.compile(r"^Missing \d+ parameters: (.+?)\.?$")
"""MLX's message about parameters without a tensor."""
_EDGE = re.compile(r'(\d+|"[^"]*") -> (\d+|"[^"]*")')


@dataclass(frozen=True, slots=True)
class LazyModel:
    """A model with lazy weights.

    Attributes:
        tensors: the files' tensors by their names in the files, lazy.
    """

    model: nn.Module
    tensors: Mapping[str, mx.array]


class FolderWeights:
    """Model in a folder of safetensors.

    Raises:
        ModelError: a file or tensor cannot be read; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = read_json(folder / "config.json")
        reject_custom_code(config, folder / "config.json")
        if not config.get("model_type"):
            raise ModelUnsupportedError(f"{folder / 'config.json'} has no model_type")
        self._wants_code = "auto_map" in config
        self.places = read_tensor_places(folder)

    def make_model(self) -> LazyModel:
        """Builds the whole model unevaluated, in float32 on a machine without Metal."""
        seen: dict[str, mx.array] = {}
        make_plain: list[Callable[[], nn.Module]] = []

        def classes(config: dict[str, Any]) -> tuple[Callable[[Any], nn.Module], Any]:
            with_whole_numbers(config)
            find = mlx_lm_utils._get_classes  # type: ignore[reportPrivateUsage]  # the default
            model_class, arguments_class = find(config)

            def make(arguments: Any) -> nn.Module:
                model = model_class(arguments)
                make_plain.append(lambda: model_class(arguments))
                _record_tensors(model, seen)
                return model

            return make, arguments_class

        try:
            with _overlay(self.folder, {place.file for place in self.places.values()}) as folder:
                model, _ = mlx_lm_utils.load_model(
                    folder,
                    lazy=True,
                    strict=True,
                    get_model_classes=classes,  # type: ignore[arg-type]  # any callable works
                )
        except (Exception, SystemExit) as error:  # a model class may raise anything, or exit
            raise ModelError(self._why_not_built(error)) from error
        if not on_metal():
            make_float32(model, make_plain[0]())
        model.eval()
        return LazyModel(model, seen)

    def tensors_of(self, lazy: LazyModel, parameters: Iterable[mx.array]) -> set[str]:
        """Returns the names of the tensors that evaluating ``parameters`` reads."""
        # A parameter may be a stored tensor itself, and an array has only one name in the graph.
        made = {f"made {n}": mx.expand_dims(array, 0) for n, array in enumerate(parameters)}
        stored = {f"tensor {name}": array for name, array in lazy.tensors.items()}
        with tempfile.NamedTemporaryFile("r", suffix=".dot") as file:
            mx.export_to_dot(file.name, **(stored | made))
            reached = _ancestors(made, file)
        return {x.removeprefix("tensor ") for x in reached & stored.keys()} & self.places.keys()

    def where(self, tensors: Iterable[str]) -> str:
        """Formats files and tensors for an error message."""
        return ", ".join(f"{self.places[name].file}: tensor {name}" for name in sorted(tensors))

    def _why_not_built(self, error: BaseException) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        named = [
            name for name in self.places if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
        ]
        if named:
            places = self.where(named[:3])
            return f"{places} cannot be loaded: {text[:600]}"
        if missing := _MISSING.search(text):
            files = ", ".join(sorted({place.file.name for place in self.places.values()})[:3])
            return (
                f"{self.folder}: no tensor for {missing[1][:600]} in {files}; the model is "
                "incomplete: download it again"
            )
        if self._wants_code:
            text += "; config.json asks for custom code (auto_map), which is never run"
        if isinstance(error, SystemExit):
            text = "mlx-lm's code for this model type ends the process on this machine"
        return f"{self.folder} cannot be loaded: {text[:600]}"


def _ancestors(ends: Iterable[str], graph: Iterable[str]) -> set[str]:
    """Returns the nodes of a DOT graph from which a node of ``ends`` can be reached."""
    before: dict[str, list[str]] = {}
    for line in graph:
        if found := _EDGE.match(line):
            before.setdefault(found[2].strip('"'), []).append(found[1].strip('"'))
    reached: set[str] = set()
    left = list(ends)
    while left:
        node = left.pop()
        if node not in reached:
            reached.add(node)
            left += before.get(node, ())
    return reached


def _record_tensors(model: nn.Module, seen: dict[str, mx.array]) -> None:
    """Records in ``seen`` the tensors passed to the model's ``sanitize`` or ``load_weights``."""
    name = "sanitize" if hasattr(model, "sanitize") else "load_weights"
    method: Callable[..., Any] = getattr(model, name)

    def noted(weights: Any, *args: Any, **kwargs: Any) -> Any:
        seen.update(weights)
        delattr(model, name)
        return method(_prefixed(model, weights), *args, **kwargs)

    setattr(model, name, noted)


def _prefixed(model: nn.Module, weights: Any) -> Any:
    """Adds the ``model.`` prefix to weights of an embedding model stored without it."""
    if isinstance(weights, dict) and "embed_tokens.weight" in weights and has_body(model):
        return {f"model.{name}": array for name, array in weights.items()}
    return weights


@contextmanager
def _overlay(folder: Path, files: Iterable[Path]) -> Generator[Path]:
    """Yields a temporary folder that links only the weight files named by the index."""
    with tempfile.TemporaryDirectory(prefix="pomona-") as name:
        overlay = Path(name)
        for small in _SMALL_FILES:
            if (folder / small).is_file():
                (overlay / small).symlink_to((folder / small).resolve())
        for number, file in enumerate(sorted(files)):
            (overlay / f"model-{number:05}.safetensors").symlink_to(file.resolve())
        yield overlay
