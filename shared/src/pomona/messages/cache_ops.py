"""Cache ops: changes that every stage makes to its KV caches before it computes a step.

All stages apply the same ops in the same order, so their tables of sequences, lanes and cached
prefixes agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from pomona.messages.limits import MAX_ROWS, Count, Endpoint, Identifier, RequestId, TokenId
from pomona.messages.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Open:
    """Creates a sequence with an empty cache. Only the tail reads the fields after ``seq``.

    Attributes:
        index: reply index of the first token to sample.
        history: prompt and reply ids, when a penalty, a grammar or ``prompt_logprobs`` needs
            them; else empty.
        replied: number of ids at the end of ``history`` that belong to the reply.
        scored: number of prompt logprobs that were sent already.
    """

    op: Literal["open"] = field(default="open", kw_only=True)
    seq: Identifier
    request: RequestId
    attempt: Count
    reply: Endpoint
    sampling: Sampling
    index: Count = 0
    history: tuple[TokenId, ...] = ()
    replied: Count = 0
    scored: Count = 0


@dataclass(frozen=True, slots=True)
class Fork:
    """Starts an open sequence with the first ``length`` tokens of a cached prefix."""

    op: Literal["fork"] = field(default="fork", kw_only=True)
    prefix: Identifier
    seq: Identifier
    length: Count


@dataclass(frozen=True, slots=True)
class Trim:
    """Truncates a cached prefix to its first ``length`` tokens."""

    op: Literal["trim"] = field(default="trim", kw_only=True)
    prefix: Identifier
    length: Count


@dataclass(frozen=True, slots=True)
class Close:
    """Ends a sequence, which must not be in a lane.

    Attributes:
        keep: id under which the cache becomes a cached prefix; None frees it.
        length: tokens of that prefix.
        parent: cached prefix that holds the first ``shared`` tokens.
        shared: tokens not stored again because ``parent`` holds them.
    """

    op: Literal["close"] = field(default="close", kw_only=True)
    seq: Identifier
    keep: Identifier | None = None
    length: Count = 0
    parent: Identifier | None = None
    shared: Count = 0


@dataclass(frozen=True, slots=True)
class Drop:
    """Frees a cached prefix, which must not be the parent of another."""

    op: Literal["drop"] = field(default="drop", kw_only=True)
    prefix: Identifier


@dataclass(frozen=True, slots=True)
class Join:
    """Appends sequences as rows of a lane. Creates the lane if needed."""

    op: Literal["join"] = field(default="join", kw_only=True)
    lane: Identifier
    seqs: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=MAX_ROWS)]


@dataclass(frozen=True, slots=True)
class Leave:
    """Removes rows from a lane into caches of their own. Deletes the lane when it is empty."""

    op: Literal["leave"] = field(default="leave", kw_only=True)
    lane: Identifier
    seqs: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=MAX_ROWS)]


@dataclass(frozen=True, slots=True)
class Rollback:
    """Removes guessed tokens that were not confirmed from the only row of a lane.

    Attributes:
        length: tokens that stay in the row's caches.
        branch: number of rollbacks of this lane so far. Steps issued before belong to an older
            branch; the tail drops their results.
    """

    op: Literal["rollback"] = field(default="rollback", kw_only=True)
    lane: Identifier
    length: Count
    branch: Count


Op = Annotated[
    Open | Fork | Trim | Close | Drop | Join | Leave | Rollback, Field(discriminator="op")
]
