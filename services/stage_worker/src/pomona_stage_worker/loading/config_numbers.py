"""Makes integers of counts and sizes that a config.json states as floats, like 32.0 layers."""

from __future__ import annotations

import re
from typing import Any, cast

from pomona.models.architecture import whole_number

_COUNTS = re.compile(
    r"num_.*|n_.*|max_.*|.*_(?:size|dim|dims|rank|layers|heads|length|experts|window|interval|"
    r"embeddings|state|groups|token_ids?|step|freq|bits|tok)|first_k_dense_replace|bits|layers"
)
"""Names of entries that are counts, sizes or ids."""


def with_whole_numbers(config: dict[str, Any]) -> None:
    """Replaces floats without a fraction by integers, in place, in nested objects too."""
    for key, value in config.items():
        if isinstance(value, dict):
            with_whole_numbers(cast("dict[str, Any]", value))
        elif _COUNTS.fullmatch(key):
            config[key] = _whole(value)


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(x) for x in cast("list[Any]", value)]
    number = whole_number(value) if isinstance(value, float) else None
    return value if number is None else number
