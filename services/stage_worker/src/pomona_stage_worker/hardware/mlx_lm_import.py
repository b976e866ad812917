"""Imports mlx-lm without the parts that a worker never uses.

``import mlx_lm`` loads transformers, tokenizers, the hub's client and every generation loop: one
second and 40 MB in every worker. A worker only builds models and loads weights.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from types import ModuleType


def import_mlx_lm() -> None:
    """Makes ``mlx_lm.models`` and ``mlx_lm.utils`` importable without the rest.

    Must be called before anything imports mlx_lm; does nothing afterwards.
    """
    spec = importlib.util.find_spec("mlx_lm")
    if "mlx_lm" in sys.modules or spec is None:
        return
    sys.modules["mlx_lm"] = importlib.util.module_from_spec(spec)
    stubs = {
        "mlx_lm.tokenizer_utils": _stub("TokenizerWrapper", "load"),
        "huggingface_hub": _stub("snapshot_download"),
    }
    added = {name: module for name, module in stubs.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        import_module("mlx_lm.utils")
    finally:
        for name in added:
            del sys.modules[name]


def _stub(*names: str) -> ModuleType:
    module = ModuleType("stub")
    for name in names:
        setattr(module, name, None)
    return module
