"""``python -m pomona_stage_worker.testing.ring_cost TOKENS``: one rank of a ring that only sums.

Rank 0 prints the median time of a sum of the activations of ``TOKENS`` tokens, microseconds.
``MLX_RANK`` and ``MLX_HOSTFILE`` are read by mlx.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Final

import mlx.core as mx

WIDTH: Final = 4096
COUNT: Final = 60
WARMUP: Final = 5


def main() -> None:
    group = mx.distributed.init(strict=True, backend="ring")
    values = mx.zeros((int(sys.argv[1]), WIDTH), mx.float32)
    mx.eval(values)
    seconds: list[float] = []
    for _ in range(WARMUP + COUNT):
        began = time.perf_counter()
        mx.eval(mx.distributed.all_sum(values, group=group))
        seconds.append(time.perf_counter() - began)
    if group.rank() == 0:
        print(median(seconds[WARMUP:]) * 1e6, flush=True)


if __name__ == "__main__":
    main()
