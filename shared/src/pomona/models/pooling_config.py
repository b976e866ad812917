"""Reads the pooling of an embedding model in the layout of sentence-transformers.

``modules.json`` lists the modules in order: the transformer, a pooling module with its own folder,
and optionally normalization
(https://sbert.net/docs/package_reference/sentence_transformer/models.html).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import orjson

from pomona.errors import ModelError
from pomona.models.formats.safetensors_index import read_json

_MODE = "pooling_mode_"


def read_pooling(path: Path) -> tuple[str, bool]:
    """Reads the pooling mode of a folder's model, and whether its embeddings are normalized.

    Returns:
        ``lasttoken``, ``mean_tokens``, ``cls_token`` or another mode of sentence-transformers;
        several are joined by ``+``. Empty when the model is not an embedding model, ``unknown``
        when its modules are not supported.

    Raises:
        ModelError: naming the file that cannot be read.
    """
    file = path / "modules.json"
    if not file.is_file():
        return "", False
    try:
        modules = orjson.loads(file.read_bytes())
        steps = [(str(x["type"]).rpartition(".")[2], str(x.get("path", ""))) for x in modules]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{file} is not a valid list of sentence-transformers modules; fetch it again"
        ) from error
    names = [name for name, _ in steps]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return "unknown", False
    folder = PurePosixPath(steps[1][1])
    if len(folder.parts) != 1 or folder.parts[0] == "..":
        return "unknown", False
    return _pooling(path / folder.parts[0] / "config.json"), names[-1] == "Normalize"


def _pooling(file: Path) -> str:
    if not file.is_file():
        return "unknown"
    config = read_json(file)
    modes = [key.removeprefix(_MODE) for key, on in config.items() if key.startswith(_MODE) and on]
    return "+".join(modes) or str(config.get("pooling_mode") or "unknown")
