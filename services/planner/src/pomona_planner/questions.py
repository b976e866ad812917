"""What the search is asked, in arrays, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

MAX_NODES = 20
"""Sets of nodes are numbered; this many nodes make a million sets."""
TIE = 1e-9
"""Costs that differ by less than this share are equal."""


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """What stages and links cost, in seconds. N nodes, P positions at which a cut may be.

    Attributes:
        fixed: (N,) of any stage on a node.
        before: (N, P) of all layers before a position; rises along positions.
        last: (N,) more when a stage is the tail.
        link: (N, N) from a node to the next stage's.
        back: (N, N) from the tail to the head.
    """

    fixed: Array
    before: Array
    last: Array
    link: Array
    back: Array

    def stage(self) -> Array:
        """(N, P, P): a stage on a node from one position to another."""
        made = self.fixed[:, None, None] + self.before[:, None, :] - self.before[:, :, None]
        made[:, :, -1] += self.last[:, None]
        return made

    def of(self, nodes: list[int], cuts: list[int]) -> float:
        """All stages and links of a plan. Args: cuts: positions, one more than nodes."""
        stage = self.stage()
        stages = sum(stage[n, a, b] for n, a, b in zip(nodes, cuts[:-1], cuts[1:], strict=True))
        return float(stages) + self.links_of(nodes)

    def links_of(self, nodes: list[int]) -> float:
        """All links of a plan, the way back included."""
        links = sum(self.link[a, b] for a, b in pairwise(nodes))
        return float(links + (self.back[nodes[-1], nodes[0]] if len(nodes) > 1 else 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Find the cheapest plan.

    Attributes:
        costs: to be minimised: all stages, all links, and the way back.
        allowed: (N, P, P) whether a node may hold a stage from one position to another.
        fewest, most: stages.
        required: nodes that must be used.
        below: only plans that cost less than this.
        second: costs of another kind, whose sum must not pass ``second_limit``.
        any_will_do: the first plan found is good enough.
    """

    costs: Costs
    allowed: Array
    fewest: int = 1
    most: int = MAX_NODES
    required: frozenset[int] = frozenset()
    below: float = float("inf")
    second: Costs | None = None
    second_limit: float = float("inf")
    any_will_do: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A plan.

    Attributes:
        nodes: in the order of the stages.
        cuts: positions, one more than nodes.
        cost: what was minimised.
    """

    nodes: tuple[int, ...]
    cuts: tuple[int, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes:
    found: the cheapest plan, or None when none costs less than ``below``.
    bound: no plan costs less than this, but for ``found``; infinite when the search was
        whole.
    labels: looked at.
    """

    found: Found | None
    bound: float
    labels: int

    @property
    def proven(self) -> bool:
        return self.bound == float("inf") or (
            self.found is not None and self.bound >= self.found.cost
        )
