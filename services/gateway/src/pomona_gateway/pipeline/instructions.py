"""Instructions of the journal to the pipeline client."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TypeAlias

from pomona.errors import RequestError
from pomona.messages.sampling import Sampling
from pomona.queue_policy import DEFAULT_POLICY, QueuePolicy
from pomona_gateway.pipeline.inbox import Event
from pomona_gateway.pipeline.router import Route


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """One sequence to generate.

    Attributes:
        prompt: token ids, int32.
        measured: count the sequence in the metrics. The gateway's own probes are not counted.
        speculative: tokens may be guessed in advance.
        prediction: token ids that the reply is expected to have, int32.
    """

    model: str
    prompt: array[int]
    sampling: Sampling
    queue: QueuePolicy = DEFAULT_POLICY
    measured: bool = True
    speculative: bool = True
    prediction: array[int] | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Submit an attempt to the head of a route.

    Attributes:
        ids: token ids of the prompt, then the ``emitted`` ids of the reply.
        scored: number of prompt log-probabilities that have arrived.
    """

    route: Route
    request: str
    attempt: int
    sequence: SequenceRequest
    ids: array[int]
    emitted: int
    scored: int


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Cancel an attempt at the head of its route."""

    route: Route
    request: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Pass an event on to the client of its request."""

    event: Event


@dataclass(frozen=True, slots=True)
class Fail:
    """End a request with an error for its client."""

    request: str
    error: RequestError


Instruction: TypeAlias = Send | SendCancel | Deliver | Fail
