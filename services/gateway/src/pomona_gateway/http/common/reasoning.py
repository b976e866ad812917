"""Reasoning: whether a model supports it, and the template variables that control it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.text import LanguageModel

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

EFFORT_VARIABLE = "reasoning_effort"
"""Template variable for one of several efforts."""
SWITCH_VARIABLE = "enable_thinking"
"""Template variable that turns reasoning on or off."""


def template_reads(language: LanguageModel, variable: str) -> bool:
    """Returns whether the model's default chat template mentions a variable."""
    template = language.templates.get("default")
    return template is not None and variable in template.source


def can_reason(language: LanguageModel) -> bool:
    """Returns whether the model marks reasoning in its replies."""
    return language.output.reasons


@dataclass(frozen=True, slots=True)
class ReasoningWish:
    """Amount of reasoning that a client asks for.

    Attributes:
        effort: amount of reasoning; None to say only whether it reasons.
        enabled: whether the model reasons.
        where: the parameters that hold the wish; empty for a dialect's default.
    """

    effort: Effort | None
    enabled: bool
    where: tuple[str, ...]


def effort_wish(effort: Effort | None, where: str) -> ReasoningWish | None:
    """Returns the wish for an effort; None without one."""
    return None if effort is None else ReasoningWish(effort, effort != "none", (where,))


def reasoning_variables(
    language: LanguageModel, wish: ReasoningWish | None, ignored: IgnoredParameters
) -> dict[str, Any]:
    """Returns the template variables for a wish.

    If the template reads none, the wish has no effect and is noted in ``ignored``, unless it is
    that a model does not reason that cannot.
    """
    if wish is None:
        return {}
    variables: dict[str, Any] = {}
    if wish.effort is not None and template_reads(language, EFFORT_VARIABLE):
        variables[EFFORT_VARIABLE] = "xhigh" if wish.effort == "max" else wish.effort
    if template_reads(language, SWITCH_VARIABLE):
        variables[SWITCH_VARIABLE] = wish.enabled
    if not variables and (wish.enabled or can_reason(language)):
        for path in wish.where:
            ignored.add(path)
    return variables
