"""Configurations of the small test models, as pomona reads them from a config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pomona.models.architecture import TextConfig
from support.slicing.families import COMMON, FAMILIES


def text_config_of(row: str, **own: Any) -> TextConfig:
    """Returns the configuration of a row of ``FAMILIES``. ``own`` overrides its keys."""
    config = {**COMMON, "model_type": row.partition(":")[0], **FAMILIES[row], **own}
    if "num_layers" in FAMILIES[row] and "num_hidden_layers" not in FAMILIES[row]:
        del config["num_hidden_layers"]
    return TextConfig(config, Path("config.json"))
