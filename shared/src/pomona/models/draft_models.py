"""Small models that guess tokens for a large one: which fits, and how much it may read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from pomona.models.facts import ModelFacts
from pomona.models.formats.vocabulary import read_vocabulary

AUTOMATIC: Final = "auto"
HEADS: Final = "prediction heads"
DRAFT_MODEL: Final = "draft model"
"""Names of the sources of guesses that a model may lack."""
DRAFT_CONTEXT: Final = 2048
"""Tokens at the end of a text that a draft model always reads, and at most twice as many."""
DRAFT_SEQUENCES: Final = 2
"""Sequences that are drafted at once, each with caches of its own."""


@dataclass(frozen=True, slots=True)
class DraftPair:
    """A row of the table: models whose names contain ``family`` are drafted by ``source``.

    Attributes:
        least_parameters: fewest parameters of the large model for which that is worth it.
    """

    family: str
    source: str
    least_parameters: float


@cache
def draft_pairs() -> tuple[DraftPair, ...]:
    """Returns the table that ships, in the order in which it is searched."""
    text = files("pomona.models").joinpath("data/draft_models.toml").read_text("utf-8")
    return tuple(
        DraftPair(row["family"], row["source"], 1e9 * row["least_billions"])
        for row in tomllib.loads(text)["pair"]
    )


def known_draft(name: str, parameters: int) -> str:
    """Returns the source of the draft model for a model, or an empty text if none is known."""
    plain = name.lower().replace("_", "-")
    for pair in draft_pairs():
        if pair.family in plain and parameters >= pair.least_parameters:
            return pair.source
    return ""


def vocabulary_difference(large: Path, draft: Path) -> str:
    """Returns how the vocabulary of a draft model differs from that of the large one; empty if its
    guesses mean the same.

    Tokens that only one of them has are no difference if they come after all common ids: rows that
    fill a table up, or marks that one of them was trained with.

    Raises:
        ModelError: a tokenizer cannot be read.
    """
    here, there = _tokens(large), _tokens(draft)
    for token_id in sorted(here.keys() & there.keys()):
        if here[token_id] != there[token_id]:
            return (
                f"its vocabulary is another one: token {token_id} is {_shown(there[token_id])}, "
                f"not {_shown(here[token_id])}"
            )
    most = max(len(here), len(there))
    if abs(len(here) - len(there)) > most // 100:
        return f"its vocabulary has {len(there)} tokens, not {len(here)}"
    return ""


def why_heads_are_unused(facts: ModelFacts) -> str:
    """Returns why a model's own prediction heads do not guess."""
    if facts.format == "data":
        return "only figures of this model are known, not its files"
    if facts.format == "gguf":
        return "they are not looked for in GGUF files"
    if facts.has_next_token_weights:
        return "the files have them, but this version does not load them"
    if facts.next_token_layers:
        layers = "layer" if facts.next_token_layers == 1 else "layers"
        return (
            f"config.json names {facts.next_token_layers} next-token {layers}, whose weights the "
            "files lack"
        )
    return "the model has none"


def _tokens(path: Path) -> Mapping[int, str]:
    vocabulary: dict[str, int] = read_vocabulary(path).get_vocab(with_added_tokens=True)
    return {token_id: text for text, token_id in vocabulary.items()}


def _shown(text: str) -> str:
    return repr(text if len(text) <= 32 else text[:32] + "...")
