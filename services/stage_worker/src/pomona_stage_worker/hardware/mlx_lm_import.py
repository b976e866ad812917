"""mlx-lm without what a worker never uses of it.

``import mlx_lm`` loads transformers, tokenizers, the hub's client and every way to generate:
a second and 40 MB, in every worker. A worker builds models and loads weights; text is the
gateway's business.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from types import ModuleType


def import_mlx_lm() -> None:
    """Make ``mlx_lm.models`` and ``mlx_lm.utils`` importable, alone. To be called before
    anything imports mlx_lm; does nothing after that."""
    spec = importlib.util.find_spec("mlx_lm")
    if "mlx_lm" in sys.modules or spec is None:
        return
    sys.modules["mlx_lm"] = importlib.util.module_from_spec(spec)
    absent = {
        "mlx_lm.tokenizer_utils": _absent("TokenizerWrapper", "load"),
        "huggingface_hub": _absent("snapshot_download"),
    }
    stand_ins = {name: module for name, module in absent.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        import_module("mlx_lm.utils")
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _absent(*names: str) -> ModuleType:
    module = ModuleType("absent")
    for name in names:
        setattr(module, name, None)
    return module
