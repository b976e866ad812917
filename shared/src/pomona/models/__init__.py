"""Model facts, read from a model's files without its weights and without MLX."""

from pomona.models.facts import LayerFacts, ModelFacts
from pomona.models.sources import (
    EMBEDDED_MODEL,
    check_source,
    model_name,
    pinned_source,
    read_facts,
    resolve,
)

__all__ = [
    "EMBEDDED_MODEL",
    "LayerFacts",
    "ModelFacts",
    "check_source",
    "model_name",
    "pinned_source",
    "read_facts",
    "resolve",
]
