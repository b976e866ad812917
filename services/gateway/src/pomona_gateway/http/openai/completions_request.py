"""Body of ``POST /v1/completions``, and prompts as texts or token ids."""

from __future__ import annotations

from array import array
from typing import Annotated, Literal, cast

from pydantic import Field, StringConstraints

from pomona.errors import RequestError
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, TokenId
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.limits import PromptTooLongError

MAX_PROMPTS = 128

Text = Annotated[str, StringConstraints(min_length=1)]
Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
Ids = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Rows = Annotated[list[Ids], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
Prompt = Text | Texts | Ids | Rows
"""One prompt or several, each as text or as token ids."""


class CompletionRequest(SamplingParameters):
    """A text completion request."""

    prompt: Prompt
    """One or several prompts, as texts or token ids. Each gets ``n`` replies."""
    max_tokens: int | None = Field(default=None, ge=-1, le=2**31 - 1)
    """Maximum tokens of the reply. Default 16."""
    logprobs: int | None = Field(default=None, ge=0, le=5)
    """Report each token's logprob, and this many of the most likely tokens."""
    echo: bool | None = None
    """Put the prompt before the reply, and its logprobs too if ``logprobs`` is set."""
    best_of: Literal[1] | None = None
    suffix: None = None


async def read_prompts(
    prompt: Prompt, language: LanguageModel, parameter: str
) -> tuple[tuple[str, ...], tuple[array[int], ...]]:
    """Returns each prompt as text and as token ids.

    Raises RequestError naming ``parameter`` when a prompt is empty or an id is out of range.
    """
    if isinstance(prompt, str):
        texts = (prompt,)
    elif isinstance(prompt[0], str):
        texts = tuple(str(text) for text in prompt)
    else:
        return _read_rows(prompt, language, parameter)
    limit = language.text_limit(parameter)
    rows = tuple([await language.prompter.encode(text, limit=limit) for text in texts])
    return texts, _not_empty(rows, parameter)


def _read_rows(
    prompt: Prompt, language: LanguageModel, parameter: str
) -> tuple[tuple[str, ...], tuple[array[int], ...]]:
    rows = prompt if isinstance(prompt[0], list) else [prompt]
    ids = tuple(array("i", cast("list[int]", row)) for row in rows)
    longest = max(len(row) for row in ids)
    if longest > language.context_length:
        raise PromptTooLongError(longest, language.context_length, parameter)
    vocab_size = language.facts.vocab_size
    largest = max(max(row) for row in ids)
    if largest >= vocab_size:
        message = f"invalid {parameter!r}: token id {largest} is out of range [0, {vocab_size})"
        raise RequestError(400, "invalid_value", message, parameter)
    decode = language.tokenizer.decode
    return tuple(decode(row, skip_special=False) for row in ids), _not_empty(ids, parameter)


def _not_empty(rows: tuple[array[int], ...], parameter: str) -> tuple[array[int], ...]:
    if not all(rows):
        message = f"invalid {parameter!r}: a prompt has no tokens"
        raise RequestError(400, "invalid_value", message, parameter)
    return rows
