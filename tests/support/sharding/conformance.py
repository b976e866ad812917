"""Compares ranks of a tensor group, real processes over mlx's ring, with the whole model.

Each rank process runs every row of the folder's file: `python -m support.sharding.conformance
FOLDER SIZE RANK` in the folder `tests`. A row is a row of `FAMILIES`, with `@bits/group/mode` for
a quantised model.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import orjson

from pomona_stage_worker.sharding import refusal, shard_model
from pomona_stage_worker.slicing import StageModel, legal_cuts, slice_model
from support.ports import free_port
from support.slicing.families import FAMILIES, build, randomise

PROMPT = mx.array([[3, 1, 4, 1, 5, 9]])
STEPS = (PROMPT, mx.array([[2]]), mx.array([[6, 5, 3]]))
ROWS = "rows.json"
TOLERANCE = 2e-5
"""Largest difference of logits, as a part of the largest logit: sums in float32 of other orders."""

FOUR_OF_ALL: dict[str, Any] = {
    "num_key_value_heads": 4,
    "linear_num_key_heads": 4,
    "index_n_heads": 4,
    "o_groups": 4,
    "num_attention_groups": 4,
    "attention_other_setting": {"num_attention_heads": 4, "num_attention_groups": 4},
}
"""Counts that four ranks divide."""


WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
"""Sizes of a llama whose matrices can be quantised and split over two ranks."""
QUANTISED = (
    "2/32/affine", "3/64/affine", "4/32/affine", "4/64/affine", "4/128/affine", "5/64/affine",
    "6/64/affine", "8/32/affine", "8/64/affine", "8/128/affine",
    "4/32/mxfp4", "8/32/mxfp8", "4/16/nvfp4",
)  # fmt: skip
"""Kinds of quantisation: bits, group size and mode."""


def of_four(row: str) -> dict[str, Any]:
    """Returns the configuration of a row with every count four, to split over four ranks."""
    text = FAMILIES[row.partition("@")[0]].get("text_config")
    return dict(FOUR_OF_ALL) if text is None else {"text_config": {**text, **FOUR_OF_ALL}}


def shardable_rows() -> list[str]:
    """Returns the rows of `FAMILIES` whose model has mlx-lm's ``shard``."""
    return [row for row in FAMILIES if hasattr(build(row), "shard")]


def built(row: str, own: dict[str, Any]) -> nn.Module:
    name, _, quantisation = row.partition("@")
    model = build(name, **own)
    randomise(model)
    if quantisation:
        bits, group_size, mode = quantisation.split("/")
        nn.quantize(model, int(group_size), int(bits), mode=mode)
    return model


def stages_of(model: nn.Module, cuts: Sequence[int]) -> list[StageModel]:
    ends = [0, *cuts, len(model.layers)]  # type: ignore[attr-defined]  # every mlx-lm model
    return [slice_model(model, a, b) for a, b in pairwise(ends)]


def run(stages: Sequence[StageModel]) -> Iterator[tuple[np.ndarray[Any, Any], int]]:
    """Runs the steps. Yields logits, and the bytes of the caches of every stage."""
    caches = [stage.make_cache() for stage in stages]
    for tokens in STEPS:
        activations: Any = None
        for stage, cache in zip(stages, caches, strict=True):
            activations = stage(tokens, activations, cache)
            mx.eval(activations, [entry.state for entry in stage.owned_caches(cache)])
        held = [
            entry.nbytes
            for stage, cache in zip(stages, caches, strict=True)
            for entry in stage.owned_caches(cache)
        ]
        yield np.array(activations.astype(mx.float32)), sum(held)


def cut_sets(model: nn.Module) -> list[list[int]]:
    """Returns no cut, then every legal one."""
    return [[], *([cut] for cut in legal_cuts(model))]


def failures(
    folder: Path, size: int, rows: Sequence[tuple[str, dict[str, Any]]], deadline_s: float
) -> dict[str, list[str]]:
    """Runs the rows over ``size`` ranks. Returns what differs from the whole models."""
    run_ranks(folder, size, rows, deadline_s)
    found = {row: differences(folder, n, size, row, own)[0] for n, (row, own) in enumerate(rows)}
    return {row: different for row, different in found.items() if different}


def main() -> None:
    folder, size, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    group = mx.distributed.init(strict=True, backend="ring")
    assert (group.size(), group.rank()) == (size, rank)
    rows = orjson.loads((folder / ROWS).read_bytes())
    for number, (row, own) in enumerate(rows):
        plain = built(row, own)
        sharded = shard_model(plain, group)
        mx.eval(sharded.parameters())
        for at, cuts in enumerate(cut_sets(sharded)):
            steps = list(run(stages_of(sharded, cuts)))
            if rank == 0 or at == 0:
                arrays = {f"logits{i}": logits for i, (logits, _) in enumerate(steps)}
                arrays["bytes"] = np.array([held for _, held in steps])
                np.savez(folder / f"{number}.{at}.{rank}.npz", **arrays)  # type: ignore[arg-type]  # its stub takes them for allow_pickle


def run_ranks(
    folder: Path, size: int, rows: Sequence[tuple[str, dict[str, Any]]], deadline_s: float
) -> None:
    """Runs one process a rank over all rows; raises when one fails."""
    hosts = folder / "hosts.json"
    hosts.write_bytes(orjson.dumps([[f"127.0.0.1:{free_port()}"] for _ in range(size)]))
    (folder / ROWS).write_bytes(orjson.dumps(rows))
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "support.sharding.conformance",
                str(folder),
                str(size),
                str(rank),
            ],
            env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=deadline_s)
            assert rank.returncode == 0, errors.decode()[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def differences(
    folder: Path, number: int, size: int, row: str, own: dict[str, Any]
) -> tuple[list[str], float]:
    """Compares what the ranks wrote with the whole model.

    Returns:
        What differs, and the bytes of a rank's caches as a part of the whole model's.
    """
    model = built(row, own)
    found: list[str] = []
    share = 0.0
    for at, cuts in enumerate(cut_sets(model)):
        right = list(run(stages_of(model, cuts)))
        for rank in range(size if at == 0 else 1):
            wrote = np.load(folder / f"{number}.{at}.{rank}.npz")
            for step, (logits, held) in enumerate(right):
                scale = np.abs(logits).max()
                off = np.abs(wrote[f"logits{step}"] - logits).max() / scale
                if not off <= TOLERANCE:
                    found.append(f"cuts {cuts}, rank {rank}, step {step}: off by {off:.1e}")
                share = max(share, int(wrote["bytes"][step]) / held)
    return found, share


def why_refused(row: str, size: int, own: dict[str, Any]) -> str | None:
    return refusal(built(row, own), size)


if __name__ == "__main__":
    main()
