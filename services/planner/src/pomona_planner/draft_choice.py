"""Chooses the draft model of a model, or says why it has none. Reads files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from pomona.errors import PomonaError
from pomona.models import ModelFacts, pinned_source, read_facts
from pomona.models.draft_models import (
    AUTOMATIC,
    DRAFT_MODEL,
    HEADS,
    known_draft,
    vocabulary_difference,
    why_heads_are_unused,
)
from pomona.plain_text import plain_text

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DraftChoice:
    """The draft model of a model.

    Attributes:
        source: name of the draft model that means the same on every node; empty for none.
        facts: of the draft model; None for none.
        unused: why sources of guesses are not used, by name.
    """

    source: str = ""
    facts: ModelFacts | None = None
    unused: Mapping[str, str] = field(default_factory=dict[str, str])


def choose_draft(wanted: str, large: ModelFacts) -> DraftChoice:
    """Reads the wanted draft model and compares its vocabulary. Never raises: the large model
    serves without it.

    Args:
        wanted: a source, ``auto``, or an empty text for none.
    """
    unused = {HEADS: why_heads_are_unused(large)}
    source = known_draft(large.name, large.parameters) if wanted == AUTOMATIC else wanted
    if not source:
        reason = "POMONA_PLANNER_DRAFT_MODEL names none"
        if wanted == AUTOMATIC:
            reason = f"none is known for {large.name}; name one in POMONA_PLANNER_DRAFT_MODEL"
        return DraftChoice(unused=unused | {DRAFT_MODEL: reason})
    try:
        facts = read_facts(source)
        difference = vocabulary_difference(large.path, facts.path)
    except PomonaError as error:
        difference = plain_text(str(error))
    except Exception as error:  # whatever its files contain, the large model is served
        log.exception("the draft model %s cannot be read", source)
        difference = f"it cannot be read: {type(error).__name__}: {plain_text(str(error))}"
    else:
        if not difference:
            return DraftChoice(pinned_source(source), facts, unused)
    log.warning("%s does not guess for %s: %s", source, large.name, difference)
    return DraftChoice(unused=unused | {DRAFT_MODEL: f"{source}: {difference}"})
