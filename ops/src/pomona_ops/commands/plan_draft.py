"""The draft model of ``pomona plan --draft``, and why other sources of guesses are not used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pomona.errors import ConfigurationError, ModelError
from pomona.models import ModelFacts, read_facts
from pomona.models.draft_models import (
    AUTOMATIC,
    DRAFT_MODEL,
    HEADS,
    known_draft,
    vocabulary_difference,
    why_heads_are_unused,
)
from pomona.models.published import published_facts

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class PlannedDraft:
    """The small model that guesses, if there is one.

    Attributes:
        facts: of the draft model; None for none.
        unused: why sources of guesses are not used, by name.
    """

    facts: ModelFacts | None
    unused: dict[str, str]


def planned_draft(wanted: str, large: ModelFacts) -> PlannedDraft:
    """Reads the draft model and compares vocabularies, where files tell them.

    Args:
        wanted: a known name, folder, file or hub id, ``auto``, or an empty text for none.

    Raises:
        ConfigurationError: a model that was named cannot be read.
    """
    unused = {HEADS: why_heads_are_unused(large)}
    name = known_draft(large.name, large.parameters) if wanted == AUTOMATIC else wanted
    if not name:
        reason = f"none is known for {large.name}" if wanted else "--draft names none"
        return PlannedDraft(None, unused | {DRAFT_MODEL: reason})
    try:
        facts = published_facts(name, None) or read_facts(name)
        difference = _difference(large, facts)
    except ModelError as error:
        if wanted != AUTOMATIC:
            raise ConfigurationError(f"--draft {name}: {error}") from error
        difference = str(error)
    else:
        if not difference:
            return PlannedDraft(facts, unused)
    return PlannedDraft(None, unused | {DRAFT_MODEL: f"{name}: {difference}"})


def _difference(large: ModelFacts, draft: ModelFacts) -> str:
    """Returns how the vocabularies differ; of models known by name only the sizes are known."""
    if "data" not in (large.format, draft.format):
        return vocabulary_difference(large.path, draft.path)
    most = max(large.vocab_size, draft.vocab_size)
    if abs(large.vocab_size - draft.vocab_size) > most // 100:
        return f"its vocabulary has {draft.vocab_size} tokens, not {large.vocab_size}"
    return ""


def print_guesses(console: Console, plan: dict[str, Any]) -> None:
    """Prints the speed with guesses, and why sources of guesses are not used."""
    if plan["guessed_tokens_per_second"]:
        name = plan["draft_model"]
        source = f" by {name}, {plan['guess_milliseconds']:.1f} ms each" if name else ""
        gain = plan["guessed_tokens_per_second"] / plan["tokens_per_second"]
        console.print(
            f"with guesses  {plan['guessed_tokens_per_second']:.1f} tok/s ({gain:.2f} times) if "
            f"{plan['acceptance']:.0%} of them are right{source}"
        )
    for source, reason in plan["unused_drafts"].items():
        console.print(f"[dim]no {source}: {reason}[/dim]")
