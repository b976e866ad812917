"""Data plane: messages on the links between gateway, head, stages and tail.

::

    gateway --Submit, Cancel--> head --Step--> stage --Step--> tail
       ^                          ^                              |
       |                          +----------- StepDone ---------+
       +-- Rejected, Queued, -----+--- Tokens, Scored, Embedded -+
           Started

Each message travels in an :class:`Envelope`; its tensors follow as raw frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from pomona.messages.cache_ops import Op
from pomona.messages.limits import (
    MAX_DIMENSIONS,
    MAX_OPS,
    MAX_QUEUE_PLACES,
    MAX_ROWS,
    MAX_STAGES,
    MAX_TENSORS,
    MAX_TOP_LOGPROBS,
    Count,
    Dimension,
    Endpoint,
    Epoch,
    Identifier,
    Name,
    Real,
    RequestId,
    Text,
    TokenId,
)
from pomona.messages.sampling import Sampling

FinishReason = Literal["stop", "length"]
FINISH_REASONS: tuple[FinishReason | None, ...] = (None, "stop", "length")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Shape and dtype of one raw frame. ``dtype`` is MLX's name, for example ``bfloat16``."""

    dtype: Literal[
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "bfloat16", "float32",
    ]  # fmt: skip
    shape: Annotated[tuple[Dimension, ...], Field(max_length=MAX_DIMENSIONS)]


# To the head ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit:
    """Submits a prompt. One tensor, int32 (n,): prompt ids, then ids already emitted.

    Attributes:
        attempt: rises when the gateway resubmits the request in a later epoch.
        reply: the gateway's data endpoint, with its node (:func:`pomona.addresses.at_node`).
        emitted: number of ids at the end of the tensor that belong to the reply; index of the
            next token.
        scored: number of prompt logprobs that the gateway has received in :class:`Scored`.
        share: tenant of the request. Cached prefixes are matched within a tenant only, and
            tenants take turns in the queue.
        priority: 0 (most urgent) to 9. Each step lets requests that arrived up to 25 s later
            go first.
        deadline_s: longest wait in the queue before prefill starts, seconds.
        queue_share: fraction of the queue that the requests of one ``share`` may fill.
        speculative: whether tokens may be guessed in advance. The reply is the same either way.
    """

    kind: Literal["submit"] = field(default="submit", kw_only=True)
    request: RequestId
    attempt: Count
    model: Text
    reply: Endpoint
    sampling: Sampling
    emitted: Count = 0
    scored: Count = 0
    share: Text = ""
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    deadline_s: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = 300.0
    queue_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    speculative: bool = True


@dataclass(frozen=True, slots=True)
class Cancel:
    kind: Literal["cancel"] = field(default="cancel", kw_only=True)
    request: RequestId
    attempt: Count


@dataclass(frozen=True, slots=True)
class StepDone:
    """Reports a finished step from tail to head. May arrive in two parts, like :class:`Step`.

    One tensor, int64 (n, 3), a row per sampled token: sequence, token id, and finish reason as
    an index into ``FINISH_REASONS``. The sequence is -1 in a row without a token: a guess before it
    was wrong.

    Attributes:
        elapsed_us: compute time of each stage in order, microseconds. A first part lacks the
            tail's.
    """

    kind: Literal["step_done"] = field(default="step_done", kw_only=True)
    step: Identifier
    elapsed_us: Annotated[tuple[Count, ...], Field(max_length=MAX_STAGES)]


# To the stages -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guess:
    """Guessed tokens of a step.

    Attributes:
        position: position of the step's first token in the sequence.
        confirmed: tokens of the sequence that the head knew when it issued the step. Those of
            the step from this position on are guesses.
    """

    position: Count
    confirmed: Count


@dataclass(frozen=True, slots=True)
class Step:
    """One pass through the pipeline. Each stage applies ``ops``, then runs its layers.

    Tensors: token ids, int32 (rows, length), and the sender's activations. A step without rows
    carries ops only, and no tensors.

    A step may arrive in two parts. The first holds everything known before the sender has
    computed, token ids among others; the second holds the activations and the compute time.

    Attributes:
        step: number of the step in this epoch.
        lane: lane to decode by one token per row; None for a prefill chunk of the single
            sequence in ``rows``.
        rows: sequences in the order of the tensors' first axis.
        sample: whether the tail samples a token per row from its last position.
        elapsed_us: compute time of the stages so far in order, microseconds. A first part lacks
            the sender's.
        guess: set if tokens of the step are guesses. It has one row; the tail samples after each
            of its tokens, up to the first wrong guess.
    """

    kind: Literal["step"] = field(default="step", kw_only=True)
    step: Identifier
    lane: Identifier | None
    rows: Annotated[tuple[Identifier, ...], Field(max_length=MAX_ROWS)]
    sample: bool
    ops: Annotated[tuple[Op, ...], Field(max_length=MAX_OPS)] = ()
    elapsed_us: Annotated[tuple[Count, ...], Field(max_length=MAX_STAGES)] = ()
    guess: Guess | None = None


# To the gateway ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply.

    Attributes:
        index: position in the reply, from 0. The gateway accepts only the next one.
        logprob: natural logarithm of the token's probability, if requested.
        top: the most likely (id, logprob) pairs in descending order, if requested.
        accepted, rejected: guesses of this attempt so far that were right and wrong.
    """

    request: RequestId
    attempt: Count
    index: Count
    token: TokenId
    finish: FinishReason | None = None
    logprob: Real | None = None
    top: Annotated[tuple[tuple[TokenId, Real], ...], Field(max_length=MAX_TOP_LOGPROBS)] = ()
    accepted: Count = 0
    rejected: Count = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    kind: Literal["tokens"] = field(default="tokens", kw_only=True)
    tokens: Annotated[tuple[Token, ...], Field(max_length=MAX_ROWS)]


@dataclass(frozen=True, slots=True)
class Scored:
    """Logprobs of a part of the prompt. All parts precede the first reply token.

    Logprob i belongs to prompt token i + 1: the first token has none, so a prompt of n tokens
    has n - 1. Three tensors: float32 (count,), logprobs of the prompt tokens; int32 (count, k),
    the k most likely ids in descending order; float32 (count, k), their logprobs. k is the
    request's ``prompt_logprobs``. Natural logarithms, before penalties, temperature and filters.

    Attributes:
        index: number of the first logprob in this message.
    """

    kind: Literal["scored"] = field(default="scored", kw_only=True)
    request: RequestId
    attempt: Count
    index: Count


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embedding of a prompt, sent before the token. One tensor, float32 (hidden_size,): the last
    token's hidden state after the final norm."""

    kind: Literal["embedded"] = field(default="embedded", kw_only=True)
    request: RequestId
    attempt: Count


@dataclass(frozen=True, slots=True)
class Started:
    """Progress of prefill, sent at its start and after each chunk.

    Attributes:
        cached: prompt tokens supplied by the prefix cache.
        prefilled: prompt tokens processed so far, including ``cached``.
        total: tokens of the prompt.
    """

    kind: Literal["started"] = field(default="started", kw_only=True)
    request: RequestId
    attempt: Count
    cached: Count
    prefilled: Count
    total: Count


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Attributes: position: place in the queue; 1 is prefilled next."""

    request: RequestId
    attempt: Count
    position: Count


@dataclass(frozen=True, slots=True)
class Queued:
    """Queue positions of one gateway's requests at the head, sent at most once a second.

    Covers the first ``MAX_QUEUE_PLACES`` requests of the queue.
    """

    kind: Literal["queued"] = field(default="queued", kw_only=True)
    places: Annotated[tuple[QueuePlace, ...], Field(max_length=MAX_QUEUE_PLACES)]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Ends an attempt with an error. ``status`` and ``code`` go to the client."""

    kind: Literal["rejected"] = field(default="rejected", kw_only=True)
    request: RequestId
    attempt: Count
    status: Annotated[int, Field(ge=400, le=599)]
    code: Text
    message: Text
    retry_after_s: Count | None = None


Body = Annotated[
    Submit | Cancel | StepDone | Step | Tokens | Scored | Embedded | Started | Queued | Rejected,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True)
class Envelope:
    """Header of every message on a link.

    Attributes:
        version: protocol version. Messages of another version are dropped.
        sender: name of the sending service.
        boot: boot id of the sending service.
        link: number of the link, unique in the sender's process.
        seq: sequence number on the link, from 0. A gap ends the epoch.
        epoch: epoch of the pipeline; 0 for messages outside of one.
        tensors: dtypes and shapes of the frames after the header.
        later: number of tensors, at the end, that arrive in a second part.
        soon: whether the second part follows soon enough to busy-wait for it.
    """

    version: Count
    cluster: Name
    sender: Name
    boot: Name
    link: Count
    seq: Count
    epoch: Epoch
    body: Body
    tensors: Annotated[tuple[Tensor, ...], Field(max_length=MAX_TENSORS)] = ()
    later: Annotated[int, Field(ge=0, le=MAX_TENSORS)] = 0
    soon: bool = False
