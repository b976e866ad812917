"""How a model that embeds makes one vector of a text, as sentence-transformers lays it out.

``modules.json`` lists what a text goes through: the model, a pooling with a folder of its own,
perhaps a normalisation (https://sbert.net/docs/package_reference/sentence_transformer/models.html).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import orjson

from pomona.errors import ModelError
from pomona.models.formats.safetensors_index import read_json

_MODE = "pooling_mode_"


def read_pooling(path: Path) -> tuple[str, bool]:
    """The pooling of a folder's model, and whether its vectors are normalised.

    Returns:
        ``lasttoken``, ``mean_tokens``, ``cls_token`` or another of sentence-transformers'
        words; several joined by ``+``. Empty when the model is not for embeddings; ``unknown``
        when it is, but takes a way that cannot be read.

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
        raise ModelError(f"{file} is no list of sentence-transformers' modules") from error
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
