"""Tests that ranks of a tensor group compute what the whole model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from pomona.models import EMBEDDED_MODEL
from pomona_stage_worker.loading import read_weights
from pomona_stage_worker.sharding import Ranks, ShardingError, check_shardable
from support.models.folders import tensors_of, write_folder
from support.sharding.conformance import (
    QUANTISED,
    WIDE,
    built,
    differences,
    failures,
    of_four,
    run_ranks,
    shardable_rows,
    why_refused,
)
from support.sharding.table import TABLE, lines
from support.slicing.families import COMMON

SMOLLM2: dict[str, Any] = {
    "hidden_size": 72,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 8,
}
MOST_OF_A_PART = 1.15


@pytest.mark.parametrize(
    ("row", "size", "own", "reason"),
    [
        ("llama", 2, SMOLLM2, "9 attention heads are not divisible by 2"),
        ("llama", 4, {}, "2 key-value heads are not divisible by 4"),
        ("llama", 5, {}, "attention heads are not divisible by 5"),
        ("gpt_oss", 4, {}, "2 key-value heads are not divisible by 4"),
        ("llama", 2, {"intermediate_size": 47}, "intermediate size 47"),
        ("qwen3_moe", 2, {"moe_intermediate_size": 15}, "intermediate size 15"),
        ("llama@4/64/affine", 2, {**WIDE, "intermediate_size": 192}, "3 quantisation groups of 64"),
        ("llama@8/32/mxfp8", 2, {**WIDE, "intermediate_size": 160}, "5 quantisation groups of 32"),
        ("deepseek_v41", 4, {}, "2 output groups are not divisible by 4"),
        ("gemma2", 2, {}, "mlx-lm cannot shard the family gemma2"),
        ("prism_hadamard_qwen35", 2, {}, "signs"),
    ],
)
def test_what_cannot_be_split_is_refused_before_it_is_loaded_with_the_reason(
    row: str, size: int, own: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ShardingError, match=f"over {size} ranks: .*{reason}"):
        check_shardable(lambda: built(row, own), size)


@pytest.mark.parametrize(
    ("row", "size", "own"),
    [
        ("llama", 3, SMOLLM2),
        ("llama", 1, {}),
        ("gemma2", 1, {}),
        # It repeats key-value heads for more ranks than there are heads.
        ("qwen3_5", 4, of_four("qwen3_5") | {"num_key_value_heads": 2}),
        ("llama@4/64/affine", 2, WIDE),
    ],
)
def test_what_can_be_split_is_not_refused(row: str, size: int, own: dict[str, Any]) -> None:
    assert why_refused(row, size, own) is None


@pytest.mark.slow
def test_the_table_of_families_is_up_to_date() -> None:
    table = TABLE.read_text().splitlines()
    assert [line for line in lines() if line not in table] == []


@pytest.mark.slow
def test_ranks_compute_the_logits_of_the_whole_model_with_caches_of_their_heads(
    tmp_path: Path,
) -> None:
    row = "llama", {"num_hidden_layers": 2}
    run_ranks(tmp_path, 2, [row], 120)
    assert differences(tmp_path, 0, 2, *row) == ([], 0.5)


@pytest.mark.soak
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_of_every_family_compute_the_logits_of_the_whole_model(
    size: int, tmp_path: Path
) -> None:
    rows = [(row, of_four(row) if size == 4 else {}) for row in shardable_rows()]
    legal = [(row, own) for row, own in rows if why_refused(row, size, own) is None]
    assert len(legal) > 28
    assert failures(tmp_path, size, legal, 1800) == {}


@pytest.mark.soak
def test_ranks_of_every_kind_of_quantisation_compute_the_logits_of_the_whole_model(
    tmp_path: Path,
) -> None:
    rows = [(f"llama@{kind}", {**WIDE, "num_hidden_layers": 2}) for kind in QUANTISED]
    assert failures(tmp_path, 2, rows, 1800) == {}


def ignore_progress(done: int, total: int, fetching: bool = False) -> None:
    pass


def peak_of_part(source: str, group: Ranks, start: int, stop: int) -> tuple[int, float]:
    """Returns the bytes of a rank's part, and the peak while it was read as a share of them."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    weights = read_weights(source, start, stop, ignore_progress, group=group)
    return weights.nbytes, (mx.get_peak_memory() - before) / weights.nbytes


@pytest.mark.slow
def test_a_rank_reads_and_holds_little_more_than_its_part_of_a_gguf_file() -> None:
    part, peak = peak_of_part(EMBEDDED_MODEL, Ranks(3, 1), 0, 30)
    layers = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536) * 4
    embedding = 49152 * 576 * 4
    assert part == pytest.approx(embedding + layers / 3, rel=0.01)
    assert peak < MOST_OF_A_PART


def test_a_rank_reads_and_holds_little_more_than_its_part_of_a_folder(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 256}
    config = {**COMMON, **sizes, "model_type": "qwen3_moe", "num_hidden_layers": 12, "head_dim": 64}
    write_folder(tmp_path, tensors_of(built("qwen3_moe", config)), config)
    whole, _ = peak_of_part(str(tmp_path), Ranks(1), 0, 12)
    part, peak = peak_of_part(str(tmp_path), Ranks(2, 1), 0, 12)
    assert part < 0.6 * whole
    assert peak < MOST_OF_A_PART
