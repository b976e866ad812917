"""Data plane: what travels on the links between gateway, head, stages and tail.

::

    gateway --Submit, Cancel--> head --Step--> stage --Step--> tail
       ^                          ^                              |
       |                          +----------- StepDone ---------+
       +-- Rejected, Queued, -----+--- Tokens, Scored, Embedded -+
           Started

Every message travels in an :class:`Envelope`; the tensors follow as raw frames.
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
    Identifier,
    Name,
    RequestId,
    Text,
    TokenId,
)
from pomona.messages.sampling import Sampling

FinishReason = Literal["stop", "length"]
FINISH_REASONS: tuple[FinishReason | None, ...] = (None, "stop", "length")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Shape and dtype of one raw frame. ``dtype`` is MLX's name, such as ``bfloat16``."""

    dtype: Literal[
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "bfloat16", "float32",
    ]  # fmt: skip
    shape: Annotated[tuple[Dimension, ...], Field(max_length=MAX_DIMENSIONS)]


# To the head ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit:
    """Run a prompt. The one tensor is int32 (n,): prompt ids, then ids already emitted.

    Attributes:
        attempt: rises when the gateway submits the request again in a later epoch.
        emitted: how many ids at the end of the tensor are the reply so far; the next
            token has this index.
        scored: how many log-probabilities of the prompt have arrived; as :class:`Scored`.
        reply: the gateway's data endpoint.
        share: whose request it is. Prompts are matched with kept prefixes only within it, and
            each has its own line in the queue.
        priority: 0 is due at once; each step makes others go first for 25 seconds.
        deadline_s: seconds the request may wait before its prompt is begun.
        queue_share: how much of the queue the requests of one ``share`` may fill together.
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
    deadline_s: Annotated[float, Field(gt=0, le=86400)] = 300.0
    queue_share: Annotated[float, Field(gt=0, le=1)] = 1.0


@dataclass(frozen=True, slots=True)
class Cancel:
    kind: Literal["cancel"] = field(default="cancel", kw_only=True)
    request: RequestId
    attempt: Count


@dataclass(frozen=True, slots=True)
class StepDone:
    """The tail finishes a step. It may come in two parts, as steps do.

    One tensor, int64 (n, 3): for each drawn token its sequence, its id, and in which way it is
    the last one, as an index into ``FINISH_REASONS``.

    Attributes:
        elapsed_us: compute time of every stage, in order; the tail's is missing in a first part.
    """

    kind: Literal["step_done"] = field(default="step_done", kw_only=True)
    step: Identifier
    elapsed_us: Annotated[tuple[Count, ...], Field(max_length=MAX_STAGES)]


# To the stages -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One pass through the pipeline. Every stage applies ``ops``, then runs its layers.

    The tensors: token ids, int32 (rows, length), and the activations of the stage that sends. A
    step without rows carries only ops, and no tensor.

    It may come in two parts. Whatever a stage knows before it has computed, token ids among it,
    is in the first, which goes while it computes; its compute time is in the second.

    Attributes:
        step: number of the step in this epoch.
        lane: the lane whose rows all take one token; None for a chunk of the prompt of
            the one sequence in ``rows``.
        rows: the sequences, in the order of the tensor's first axis.
        sample: the tail draws a token for each row from its last position.
        elapsed_us: compute time of the stages so far, in order; that of the one that sends is
            missing in a first part.
    """

    kind: Literal["step"] = field(default="step", kw_only=True)
    step: Identifier
    lane: Identifier | None
    rows: Annotated[tuple[Identifier, ...], Field(max_length=MAX_ROWS)]
    sample: bool
    ops: Annotated[tuple[Op, ...], Field(max_length=MAX_OPS)] = ()
    elapsed_us: Annotated[tuple[Count, ...], Field(max_length=MAX_STAGES)] = ()


# To the gateway ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply.

    Attributes:
        index: 0 for the first token of the reply; the journal takes only the next one.
        logprob: natural logarithm of the token's probability, when asked for.
        top: the most likely (id, logprob) pairs, most likely first, when asked for.
    """

    request: RequestId
    attempt: Count
    index: Count
    token: TokenId
    finish: FinishReason | None = None
    logprob: float | None = None
    top: Annotated[tuple[tuple[TokenId, float], ...], Field(max_length=MAX_TOP_LOGPROBS)] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    kind: Literal["tokens"] = field(default="tokens", kw_only=True)
    tokens: Annotated[tuple[Token, ...], Field(max_length=MAX_ROWS)]


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of a part of the prompt; they all come before the first token.

    Number i is that of prompt token i + 1 after those before it: the first token has none,
    and a prompt of n tokens has n - 1 of them. Three tensors: float32 (count,), the prompt's
    own tokens; int32 (count, k), the k likeliest ids, most likely first, and float32
    (count, k), theirs. k is the request's ``prompt_logprobs``. Natural logarithms, before
    penalties, temperature and filters.

    Attributes:
        index: number of the first of them.
    """

    kind: Literal["scored"] = field(default="scored", kw_only=True)
    request: RequestId
    attempt: Count
    index: Count


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedding of a prompt; it comes before the token. One tensor, float32
    (hidden_size,): what the model made of the last token, after the final norm."""

    kind: Literal["embedded"] = field(default="embedded", kw_only=True)
    request: RequestId
    attempt: Count


@dataclass(frozen=True, slots=True)
class Started:
    """The head has begun a prompt, or a chunk of it is done.

    Attributes:
        cached: prompt tokens that a kept prefix supplied.
        prefilled: prompt tokens done so far, ``cached`` included, of ``total``.
    """

    kind: Literal["started"] = field(default="started", kw_only=True)
    request: RequestId
    attempt: Count
    cached: Count
    prefilled: Count
    total: Count


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Attributes: position: 1 for the request whose prompt is begun next."""

    request: RequestId
    attempt: Count
    position: Count


@dataclass(frozen=True, slots=True)
class Queued:
    """The requests of one gateway that wait at the head, said at most once a second.

    Of a queue longer than ``MAX_QUEUE_PLACES`` only the front is told.
    """

    kind: Literal["queued"] = field(default="queued", kw_only=True)
    places: Annotated[tuple[QueuePlace, ...], Field(max_length=MAX_QUEUE_PLACES)]


@dataclass(frozen=True, slots=True)
class Rejected:
    """The head will not finish this attempt. ``status`` and ``code`` are the client's."""

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
    """The header of every message on a link.

    Attributes:
        version: of this protocol; another one is dropped.
        sender: name of the sending service, and ``boot`` its boot id.
        link: which of the sender's links this is.
        seq: rises by one with every message of the link; a gap ends the epoch.
        epoch: the pipeline's epoch; 0 on messages that belong to none.
        tensors: what the frames after the header hold.
        later: how many of them, at the end, come in a second part of the message.
        soon: the second part comes in a moment; it is worth staying awake for it.
    """

    version: Count
    cluster: Name
    sender: Name
    boot: Name
    link: Count
    seq: Count
    epoch: Count
    body: Body
    tensors: Annotated[tuple[Tensor, ...], Field(max_length=MAX_TENSORS)] = ()
    later: Annotated[int, Field(ge=0, le=MAX_TENSORS)] = 0
    soon: bool = False
