"""Limits of a prompt's length, in tokens and, before it is tokenised, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from pomona.errors import RequestError


class PromptTooLongError(RequestError):
    """A prompt fills the context, in the words by which clients know that they must compact."""

    def __init__(self, prompt_tokens: int, context_length: int, parameter: str) -> None:
        super().__init__(
            400,
            "context_length_exceeded",
            f"This model's maximum context length is {context_length} tokens. However, "
            f"'{parameter}' has {prompt_tokens} tokens, and the reply needs at least one. Please "
            f"reduce the length of '{parameter}'.",
            parameter,
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length
        self.anthropic_message = (
            f"prompt is too long: {prompt_tokens} tokens > {context_length} maximum"
        )


@dataclass(frozen=True, slots=True)
class TextLimit:
    """Longest text that may fit a context. Its tokens cannot be fewer than its bytes divided by
    those of the longest token.

    Attributes:
        context_length: limit in tokens.
        longest_token: length of the longest token in bytes.
        parameter: request parameter that holds the text, for the error.
    """

    context_length: int
    longest_token: int
    parameter: str

    @property
    def max_bytes(self) -> int:
        """Maximum length of a text in UTF-8; twice the bound, for tokenizers that shorten it."""
        return 2 * self.context_length * self.longest_token

    def check(self, size: int) -> None:
        """Raises PromptTooLongError for a text of ``size`` bytes, or more, that cannot fit."""
        if size > self.max_bytes:
            least = size // (2 * self.longest_token)
            raise PromptTooLongError(least, self.context_length, self.parameter)
