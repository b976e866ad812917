"""Reasoning: whether a model supports it, and the template variables that control it."""

from __future__ import annotations

from typing import Any, Literal

from pomona.errors import RequestError
from pomona_gateway.text import LanguageModel

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

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


def effort_variables(language: LanguageModel, effort: Effort | None) -> dict[str, Any]:
    """Returns the template variables for an effort.

    Raises RequestError when the model's template reads none.
    """
    if effort is None:
        return {}
    variables: dict[str, Any] = {}
    if template_reads(language, EFFORT_VARIABLE):
        variables[EFFORT_VARIABLE] = effort
    if template_reads(language, SWITCH_VARIABLE):
        variables[SWITCH_VARIABLE] = effort != "none"
    if not variables:
        raise no_reasoning_setting("reasoning_effort_not_supported", "reasoning_effort")
    return variables


def no_reasoning_setting(code: str, parameter: str) -> RequestError:
    """Returns the error for a model whose template does not control reasoning."""
    message = "this model's chat template has no setting for how much it reasons"
    return RequestError(400, code, message, parameter)
