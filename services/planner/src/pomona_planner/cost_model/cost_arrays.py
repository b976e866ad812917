"""Costs of all stages and links of a problem, as the arrays that the solver works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from pomona.models import LayerFacts
from pomona_planner.cost_model.problem import Link, Machine, Problem
from pomona_planner.cost_model.roofline import part_seconds

Array: TypeAlias = np.ndarray[Any, Any]

MAX_KINDS = 6
"""Maximum number of distinct layer kinds; above it, layers of similar cost share a kind."""
SAMPLER_LAYERS = 5
"""Layers whose small kernels take as long as the tail's norm, sampler and reply."""
TOKEN_BYTES = 400
"""Size of the message that carries a sampled token from the tail to the head."""


@dataclass(frozen=True, eq=False)
class Costs:
    """Costs of stages and links in seconds, for N nodes and P cut positions.

    Attributes:
        fixed: (N,) cost of any stage on a node.
        before: (N, P) cost of all layers before a position; rises along positions.
        last: (N,) additional cost of the tail.
        link: (N, N) from the node of a stage to the node of the next one.
        back: (N, N) from the tail to the head.
    """

    fixed: Array
    before: Array
    last: Array
    link: Array
    back: Array

    @cached_property
    def stage(self) -> Array:
        """(N, P, P) cost of a stage by node, start position and stop position."""
        costs = (self.fixed[:, None] + self.before)[:, None, :] - self.before[:, :, None]
        costs[:, :, -1] += self.last[:, None]
        return costs

    @cached_property
    def range_kinds(self) -> RangeKinds:
        return RangeKinds(self.before)

    @cached_property
    def link_classes(self) -> Array:
        """(N,) class of each node; nodes of one class have the same links to all others."""
        classes = np.arange(len(self.fixed))
        for b in classes:
            equal = (a for a in range(b) if self.have_same_links(a, int(b)))
            classes[b] = classes[next(equal, b)]
        return classes

    def have_same_links(self, a: int, b: int) -> bool:
        """Returns whether swapping two nodes leaves all link costs unchanged."""
        return all(_is_unchanged_by_swap(matrix, a, b) for matrix in (self.link, self.back))

    def plan_cost(self, nodes: list[int], cuts: list[int]) -> float:
        """Returns the cost of all stages and links. Args: cuts: positions from 0 to P - 1."""
        stages = sum(
            self.stage[n, a, b] for n, a, b in zip(nodes, cuts[:-1], cuts[1:], strict=True)
        )
        return float(stages) + self.link_cost(nodes)

    def link_cost(self, nodes: list[int]) -> float:
        """Returns the cost of all links of a plan, from tail to head included."""
        links = sum(self.link[a, b] for a, b in pairwise(nodes))
        return float(links + (self.back[nodes[-1], nodes[0]] if len(nodes) > 1 else 0.0))


class RangeKinds:
    """R kinds of layer ranges: ranges of one kind contain the same layers of each of K kinds.

    Layers of one kind cost the same on every node. The first and the last layer have kinds of
    their own.

    Attributes:
        layers: (P - 1,) kind of each layer.
        layer_counts: (R, K) layers of each kind in a kind of range.
        has_first, has_last: (R,) whether the range contains the first, and the last layer.
    """

    def __init__(self, before: Array) -> None:
        positions = before.shape[1]
        self.layers = _layer_kinds(before)
        kinds = int(self.layers.max()) + 1
        sums = np.zeros((positions, kinds), dtype=np.int64)
        np.cumsum(np.eye(kinds, dtype=np.int64)[self.layers], axis=0, out=sums[1:])
        starts, stops = np.triu_indices(positions, 1)
        counts = sums[stops] - sums[starts]
        key = counts @ (positions ** np.arange(kinds))
        order = np.argsort(key, kind="stable")
        self._firsts = np.flatnonzero(np.diff(key[order], prepend=-1))
        self._ranges = (starts * positions + stops)[order]
        chosen = order[self._firsts]
        self.layer_counts = counts[chosen].astype(float)
        self.has_first, self.has_last = starts[chosen] == 0, stops[chosen] == positions - 1

    def cheapest(self, cost: Array) -> Array:
        """Returns (N, R): the cheapest range of each kind. Args: cost: (N, P, P)."""
        ordered = cost.reshape(len(cost), -1).take(self._ranges, axis=1)
        return np.minimum.reduceat(ordered, self._firsts, axis=1)


def step_costs(problem: Problem, rows: int, tokens: int = 1) -> Costs:
    """Computes the costs of a step of ``rows`` sequences, each with ``tokens`` new tokens."""
    positions, machines = list(problem.positions()), problem.machines
    layers = list(dict.fromkeys(problem.facts.layers))
    numbers = {layer: number for number, layer in enumerate(layers)}
    layer_numbers = np.array([numbers[layer] for layer in problem.facts.layers])
    by_machine: dict[Machine, tuple[Array, float]] = {}
    before = np.zeros((len(machines), len(positions)))
    last = np.zeros(len(machines))
    for index, machine in enumerate(machines):
        if machine not in by_machine:
            by_machine[machine] = _layer_and_head_seconds(problem, layers, machine, rows, tokens)
        seconds, head = by_machine[machine]
        total = np.concatenate(([0.0], np.cumsum(seconds[layer_numbers])))
        before[index] = total[positions] * machine.correction
        last[index] = head * machine.correction * machine.tail_correction
    return Costs(
        fixed=np.array([machine.step_s * machine.correction for machine in machines]),
        before=before,
        last=last,
        link=_link_seconds(problem, rows * tokens * _activation_bytes(problem)),
        back=_link_seconds(problem, rows * TOKEN_BYTES),
    )


def _activation_bytes(problem: Problem) -> int:
    """Returns the bytes of activations that cross a link for one token."""
    full_precision = any(machine.full_precision for machine in problem.machines)
    return problem.facts.hidden_size * (4 if full_precision else 2)


def link_occupancy(problem: Problem, rows: int) -> Array:
    """Returns (N, N): seconds for which a step's activations occupy each link."""
    size = rows * _activation_bytes(problem)
    return _for_each_link(problem, lambda link: size / link.bandwidth)


def _link_seconds(problem: Problem, size: float) -> Array:
    return _for_each_link(problem, lambda link: link.latency_s + size / link.bandwidth)


def _for_each_link(problem: Problem, seconds: Callable[[Link], float]) -> Array:
    result = np.zeros((len(problem.machines), len(problem.machines)))
    for a, sender in enumerate(problem.machines):
        for b, receiver in enumerate(problem.machines):
            if a != b:
                result[a, b] = seconds(problem.link(sender.name, receiver.name))
    return result


def _layer_and_head_seconds(
    problem: Problem, layers: Sequence[LayerFacts], machine: Machine, rows: int, tokens: int
) -> tuple[Array, float]:
    """Returns the seconds of each of ``layers``, and of the vocabulary head with the sampler."""
    demand = problem.demand
    cached, cache_bits = demand.cached_tokens, demand.cache_bits
    seconds = [part_seconds(layer, machine, rows, tokens, cached, cache_bits) for layer in layers]
    # Only the last token of a prompt needs the vocabulary.
    head = part_seconds(problem.facts.head, machine, rows, 1, 0, 0)
    kernels = np.array([machine.kernels.layer(layer) for layer in layers]) * machine.layer_s
    return np.array(seconds) + kernels, head + SAMPLER_LAYERS * machine.layer_s


def _layer_kinds(before: Array) -> Array:
    seconds = np.diff(before, axis=1)
    scale = max(float(seconds.max()), 1e-15)
    _, kinds = np.unique(np.round(seconds.T / scale, 9), axis=0, return_inverse=True)
    kinds = kinds.ravel()
    if kinds.max() >= MAX_KINDS:
        means = seconds.mean(axis=0)
        edges = np.quantile(means, np.linspace(0, 1, MAX_KINDS + 1)[1:-1])
        kinds = np.searchsorted(edges, means, side="right")
    kinds[0], kinds[-1] = kinds.max() + 1, kinds.max() + 2
    return np.unique(kinds, return_inverse=True)[1].ravel()


def _is_unchanged_by_swap(matrix: Array, a: int, b: int) -> bool:
    """Returns whether swapping two nodes leaves the matrix unchanged."""
    if matrix[a, b] != matrix[b, a]:
        return False
    differ = (matrix[a] != matrix[b]) | (matrix[:, a] != matrix[:, b])
    differ[[a, b]] = False
    return not differ.any()
