"""``python -m pomona_stage_worker.testing.group_cost RANKS STEPS ROUNDS HOLD_MS``: cost of a group.

Emulated ranks hold every step for the same time and use no collectives, so what a step takes longer
than in this process is what the group adds: messages, wake-ups, and the comparison of digests.
Prints one JSON object, which :class:`GroupCost` describes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import orjson

from pomona.messages.cache_ops import Join, Open
from pomona.messages.codec import Buffer
from pomona.messages.control import Pipeline
from pomona.messages.control import Stage as Place
from pomona.messages.pipeline import Step, Tensor
from pomona.messages.sampling import Sampling
from pomona_stage_worker.groups.rank_children import LOOPBACK, RankChildren, free_ports
from pomona_stage_worker.groups.rank_group import RankGroup, load_group
from pomona_stage_worker.groups.rank_messages import Load
from pomona_stage_worker.model.mlx_stage import Stage
from pomona_stage_worker.testing.emulated import EmulatedStage

WIDTH: Final = 4096
"""Float32 activations of a token: 16 KiB."""
CHUNK: Final = 512
"""Tokens of a prefill chunk, whose activations have 8 MiB."""
WARMUP_STEPS: Final = 20
CHUNK_STEPS: Final = 12
ENDPOINT: Final = "tcp://127.0.0.1:9"
RING_DEADLINE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class StepCost:
    """Times of a step in microseconds.

    Attributes:
        group_us, alone_us: medians.
        added_us: difference of the medians.
        lowest_round_us: the same of the round in which it is lowest: other load raises it.
    """

    steps: int
    group_us: float
    alone_us: float
    added_us: float
    lowest_round_us: float


@dataclass(frozen=True, slots=True)
class GroupCost:
    """Cost of a group by kind of step.

    Attributes:
        decode: tokens in, a sampled token out: a stage that holds the whole model.
        decode_tail: 16 KiB of activations in, a sampled token out.
        decode_middle: 16 KiB in, 16 KiB out.
        prefill_tail: 8 MiB in.
        ring_16_kib_us, ring_8_mib_us: the same bytes from rank 0 to the others by a sum of mlx's
            ring in place of the parent's sockets.
    """

    ranks: int
    hold_ms: float
    decode: StepCost
    decode_tail: StepCost
    decode_middle: StepCost
    prefill_tail: StepCost
    ring_16_kib_us: float
    ring_8_mib_us: float


class StepDriver:
    """Runs one sequence's steps on a stage and takes their times.

    Args:
        has_activations: whether the stage follows another one.
    """

    def __init__(self, stage: Stage, has_activations: bool) -> None:
        self._stage = stage
        self._has_activations = has_activations
        self._step = 0
        opened = Open(1, "bench", 0, ENDPOINT, Sampling(max_tokens=1 << 20, temperature=0.0))
        self._run(Step(0, None, (1,), False, (opened,)), 1)
        self._run(Step(1, 1, (1,), False, (Join(1, (1,)),)), 1)
        self._step = 2

    def times(self, count: int, length: int) -> list[float]:
        """Returns seconds of each of ``count`` steps of ``length`` tokens."""
        seconds: list[float] = []
        for _ in range(count):
            is_decode = length == 1
            step = Step(self._step, 1 if is_decode else None, (1,), is_decode)
            self._step += 1
            seconds.append(self._run(step, length))
        return seconds

    def _run(self, step: Step, length: int) -> float:
        tensors = [Tensor("int32", (1, length))]
        buffers: list[Buffer] = [bytes(4 * length)]
        if self._has_activations:
            tensors.append(Tensor("float32", (1, length, WIDTH)))
            buffers.append(_activations(length))
        began = time.perf_counter()
        self._stage.start_step(step, tensors, buffers).finish()
        return time.perf_counter() - began


def measure(ranks: int, steps: int, rounds: int, hold_ms: float) -> GroupCost:
    """Compares a group of emulated ranks with an emulated stage in this process.

    Args:
        steps: decode steps of each round and side.
        hold_ms: duration of an emulated step, milliseconds.
    """
    hold_us = round(hold_ms * 1000)
    children = RankChildren(ranks)
    try:
        load_group(
            children, Load("emulated", 0, 1, hold_us=hold_us, width=WIDTH, spins=True), _ignore
        )

        def cost(is_tail: bool, has_activations: bool, count: int, length: int) -> StepCost:
            group = RankGroup(children, _plan(1 if is_tail else 2), is_tail, 1)
            alone = EmulatedStage(hold_ms / 1000, WIDTH, is_tail)
            sides = [StepDriver(stage, has_activations) for stage in (group, alone)]
            seconds = _alternate(sides, count, length, rounds)
            group.table()
            return _step_cost(*seconds)

        decode = cost(True, False, steps, 1)
        decode_tail = cost(True, True, steps, 1)
        decode_middle = cost(False, True, steps, 1)
        prefill_tail = cost(True, True, CHUNK_STEPS, CHUNK)
    finally:
        children.close()
    token, chunk = (_ring_us(ranks, length) for length in (1, CHUNK))
    return GroupCost(ranks, hold_ms, decode, decode_tail, decode_middle, prefill_tail, token, chunk)


def _alternate(
    sides: Sequence[StepDriver], count: int, length: int, rounds: int
) -> list[list[list[float]]]:
    """Returns the times of each side by round. The sides take turns."""
    for side in sides:
        side.times(min(count, WARMUP_STEPS), length)
    seconds: list[list[list[float]]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, taken in zip(sides, seconds, strict=True):
            taken.append(side.times(count, length))
    return seconds


def _step_cost(group: list[list[float]], alone: list[list[float]]) -> StepCost:
    group_us, alone_us = (median(chain.from_iterable(side)) * 1e6 for side in (group, alone))
    lowest_us = min(median(a) - median(b) for a, b in zip(group, alone, strict=True)) * 1e6
    steps = sum(map(len, group))
    return StepCost(steps, group_us, alone_us, group_us - alone_us, lowest_us)


def _ring_us(ranks: int, length: int) -> float:
    """Returns microseconds of a sum over ``ranks`` processes of a step's activations."""
    with tempfile.TemporaryDirectory(prefix="pomona-bench-") as folder:
        hosts = Path(folder) / "hosts.json"
        hosts.write_bytes(orjson.dumps([[f"{LOOPBACK}:{port}"] for port in free_ports(ranks)]))
        processes = [
            subprocess.Popen(
                [sys.executable, "-I", "-m", "pomona_stage_worker.testing.ring_cost", str(length)],
                env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            for rank in range(ranks)
        ]
        try:
            answer, _ = processes[0].communicate(timeout=RING_DEADLINE_S)
            return float(answer)
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _activations(length: int) -> bytes:
    return np.zeros((length, WIDTH), np.float32).tobytes()


def _plan(layers: int) -> Pipeline:
    return Pipeline("emulated", "emulated", 1, layers, "active", (Place("a", 0, 1, ENDPOINT),))


def _ignore(done: int, total: int, fetching: bool = False) -> None:
    pass


def main() -> None:
    ranks, steps, rounds = (int(value) for value in sys.argv[1:4])
    result = measure(ranks, steps, rounds, float(sys.argv[4]))
    print(orjson.dumps(asdict(result)).decode(), flush=True)


if __name__ == "__main__":
    main()
