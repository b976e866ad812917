"""The request type that every API dialect is translated to."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

from pomona.messages.sampling import Sampling
from pomona.queue_policy import DEFAULT_POLICY, QueuePolicy
from pomona_gateway.pipeline.instructions import SequenceRequest
from pomona_gateway.text import LanguageModel

SEED_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Completion:
    """One client request.

    Choices are numbered over all prompts: those of the first prompt, then those of the next.

    Attributes:
        model: name of the model.
        language: tokenizer and limits of the model.
        prompts: token ids of each prompt.
        stops: stop strings. A reply ends before the first one.
        n: choices for each prompt. Each choice gets another seed.
        visible_tokens: special tokens that are part of the text.
        max_concurrent: choices generated at the same time.
        prompt_only: choices have no tokens; the token that the pipeline samples is dropped.
        speculative: tokens may be guessed in advance.
        prediction: token ids that replies are expected to have, int32.
    """

    model: str
    language: LanguageModel
    prompts: tuple[array[int], ...]
    sampling: Sampling
    stops: tuple[str, ...] = ()
    n: int = 1
    visible_tokens: frozenset[int] = frozenset()
    queue: QueuePolicy = DEFAULT_POLICY
    max_concurrent: int = 2**31
    prompt_only: bool = False
    speculative: bool = True
    prediction: array[int] | None = None

    @property
    def choice_count(self) -> int:
        """Number of choices over all prompts."""
        return len(self.prompts) * self.n

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens over all prompts."""
        return sum(len(prompt) for prompt in self.prompts)

    def sequence(self, index: int) -> SequenceRequest:
        """Returns the sequence to generate for a choice."""
        prompt = self.prompts[index // self.n]
        room = self.language.context_length - len(prompt)
        sampling = replace(
            self.sampling,
            seed=(self.sampling.seed + index) & SEED_MASK,
            max_tokens=min(self.sampling.max_tokens, room),
        )
        return SequenceRequest(
            self.model,
            prompt,
            sampling,
            self.queue,
            speculative=self.speculative,
            prediction=self.prediction,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a completion.

    Attributes:
        cached: prompt tokens found in the prefix cache.
        accepted, rejected: guessed tokens that were right and wrong. ``reply`` has none of the
            wrong ones.
    """

    prompt: int
    reply: int
    cached: int
    accepted: int = 0
    rejected: int = 0
