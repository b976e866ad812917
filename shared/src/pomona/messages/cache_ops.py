"""Ops: what a step changes in every stage's caches before it is computed.

All stages apply the same ops in the same order, so their tables of sequences, lanes and kept
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
    """A sequence begins, with an empty cache. Only the tail reads beyond ``seq``.

    Attributes:
        index: index of the first token to be drawn.
        history: prompt and reply ids, when a penalty, a grammar or ``prompt_logprobs`` needs
            them.
        replied: how many of ``history``, at its end, are the reply.
        scored: how many log-probabilities of the prompt need not be told again.
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
    """The opened sequence takes over the first ``length`` tokens of a kept prefix."""

    op: Literal["fork"] = field(default="fork", kw_only=True)
    prefix: Identifier
    seq: Identifier
    length: Count


@dataclass(frozen=True, slots=True)
class Trim:
    """The kept prefix forgets all but its first ``length`` tokens."""

    op: Literal["trim"] = field(default="trim", kw_only=True)
    prefix: Identifier
    length: Count


@dataclass(frozen=True, slots=True)
class Close:
    """The sequence, which is in no lane, ends.

    With ``keep`` its cache of ``length`` tokens stays as that prefix. Only the tokens
    from ``shared`` on are stored; those before are ``parent``'s.
    """

    op: Literal["close"] = field(default="close", kw_only=True)
    seq: Identifier
    keep: Identifier | None = None
    length: Count = 0
    parent: Identifier | None = None
    shared: Count = 0


@dataclass(frozen=True, slots=True)
class Drop:
    """The kept prefix, which is nobody's parent, is freed."""

    op: Literal["drop"] = field(default="drop", kw_only=True)
    prefix: Identifier


@dataclass(frozen=True, slots=True)
class Join:
    """Sequences become the last rows of a lane, which begins to exist if it did not."""

    op: Literal["join"] = field(default="join", kw_only=True)
    lane: Identifier
    seqs: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=MAX_ROWS)]


@dataclass(frozen=True, slots=True)
class Leave:
    """Rows leave a lane, each with its own cache again. An empty lane ceases to exist."""

    op: Literal["leave"] = field(default="leave", kw_only=True)
    lane: Identifier
    seqs: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=MAX_ROWS)]


Op = Annotated[Open | Fork | Trim | Close | Drop | Join | Leave, Field(discriminator="op")]
