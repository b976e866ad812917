"""Published speeds: which rows are compared, how they are read, and how far predictions are off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pomona.models.published import published_facts
from pomona_ops.bench.clusters import BenchError
from pomona_ops.bench.command import app
from pomona_ops.bench.published import (
    COLUMNS,
    NotComparableError,
    PublishedRow,
    comparable,
    known_model,
    read_rows,
    separate,
)
from pomona_ops.bench.published_fit import fit
from pomona_ops.bench.published_report import compare_published, packaged_file
from pomona_planner.cluster.decode_times import load_decode_times

HELD_OUT = Path(__file__).parents[2] / "data" / "published_speeds_held_out.tsv"
ROW = PublishedRow(
    model="Qwen3-8B",
    quant="4bit",
    machines="M4 Max 64GB",
    nodes="1",
    link="-",
    engine="mlx-lm",
    split="-",
    context="short",
    decode_tok_s="80",
)


def test_predictions_agree_with_the_speeds_they_were_fitted_to() -> None:
    result = compare_published(packaged_file())
    assert result["compared"] >= 20
    assert result["median_error"] <= 0.12
    assert result["worst_error"] <= 0.30


def test_predictions_agree_with_speeds_they_were_not_fitted_to() -> None:
    result = compare_published(HELD_OUT)
    assert result["compared"] == 18
    assert result["not_compared"] == []
    assert result["median_error"] <= 0.15


def test_a_fit_to_predicted_speeds_finds_their_times() -> None:
    """The model explains its own speeds, so a fit from elsewhere has next to no error."""
    rows = [replace(ROW, model=f"Qwen3-{size}B") for size in ("0.6", "4", "14")]
    rows += [replace(row, machines="M3 Ultra 96GB") for row in rows]
    truth = replace(load_decode_times(), layer_us=70.0, achieved=0.7)
    found = [comparable(row) for row in rows]
    found = [replace(row, measured=row.predict(truth)) for row in found]
    fitted = fit(found)
    assert max(abs(row.error(fitted)) for row in found) < 0.02
    assert fitted.layer_us == pytest.approx(70, rel=0.1)
    assert fitted.achieved == pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "tensor 4:4", "nodes": "2"}, "tensor group of unequal machines"),
        ({"split": "tensor", "engine": "exo branch"}, "unreleased branch"),
        ({"split": "experts 50/50", "nodes": "2"}, "experts are split"),
        ({"split": "pipeline/tensor?"}, "not certain"),
        ({"model": "no-such-model"}, "not in published.toml"),
        ({"quant": "?"}, "not a known quantization"),
        ({"quant": "IQ2_XXS 188GiB"}, "not a known quantization"),
        ({"machines": "unequal Macs"}, "not named"),
        ({"machines": "M9 Max"}, "Apple M9 Max is not in machines.toml"),
        ({"nodes": "0"}, "not a valid number of nodes"),
        ({"nodes": "17"}, "not a valid number of nodes"),
        ({"nodes": "2", "split": "layers", "link": "TCP"}, "does not name its medium"),
        ({"nodes": "2", "split": "layers 20/23", "link": "TB5"}, "does not split 36 layers"),
        ({"context": "short, 4 at once"}, "several streams"),
        ({"engine": "oMLX + MTP depth 5"}, "speculative"),
        ({"decode_tok_s": ""}, "no decode speed"),
        ({"decode_tok_s": "-3"}, "not a valid decode speed"),
        ({"decode_tok_s": "nan"}, "not a valid decode speed"),
    ],
)
def test_a_row_that_cannot_be_predicted_has_the_reason(
    changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(NotComparableError, match=reason):
        comparable(replace(ROW, **changes))


@pytest.mark.parametrize(
    ("quant", "bits"),
    [
        ("4bit", 4.5),
        ("q6", 6.5),
        ("8-bit", 8.5),
        ("bf16", 16.0),
        ("Q4_K_M", 4.85),
        ("8bit MXFP8", 8.25),
        ("8bit (1 node: must be ~4bit)", 4.5),
        ("4bit 658GB", 4.5),
    ],
)
def test_quantizations_are_read_as_bits_per_weight(quant: str, bits: float) -> None:
    facts = comparable(replace(ROW, quant=quant)).facts
    assert 8 * facts.stored_bytes / facts.parameters == pytest.approx(bits, rel=0.01)


def test_mxfp4_keeps_the_other_weights_of_a_model_published_in_it() -> None:
    native = comparable(replace(ROW, model="gpt-oss-20b", quant="mxfp4")).facts
    assert native == published_facts("gpt-oss-20b")
    converted = comparable(replace(ROW, model="gpt-oss-20b", quant="mxfp4-q8")).facts
    assert converted.active_bytes < native.active_bytes


@pytest.mark.parametrize(
    ("machines", "names"),
    [
        ("M4 Max 64GB", ["m4-max"]),
        ("M4 Max 36GB", ["m4-max-32c"]),
        ("M4 Max 32c 64GB", ["m4-max-32c"]),
        ("M3 Ultra 80c 512GB", ["m3-ultra"]),
        ("prefill M5 Max, decode M3 Ultra", ["m3-ultra"]),
        ("M1 Ultra + M3 Max 128GB", ["m1-ultra", "m3-max"]),
    ],
)
def test_machines_are_found_by_chip_and_variant(machines: str, names: list[str]) -> None:
    nodes = str(len(names))
    row = replace(ROW, machines=machines, nodes=nodes, split="layers", link="TB4 TCP")
    assert [machine.kind.name for machine in comparable(row).machines] == names


def test_layers_are_split_as_stated_and_evenly_otherwise() -> None:
    row = replace(ROW, nodes="2", split="layers 20/16", link="TB5 TCP, ping 77 ms")
    found = comparable(row)
    assert found.bounds == (0, 20, 36)
    assert found.link.latency_s == pytest.approx(77e-3 / 2)
    assert comparable(replace(row, split="layers")).bounds == (0, 18, 36)
    local = comparable(replace(row, link="TB5 RDMA"))
    assert found.predict() < local.predict()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b"),
        ("mlx-community/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("DeepSeek-V3.1-671B", "deepseek-v3"),
        ("Qwen3-4B", "qwen3-4b"),
        ("phi-4-mini", "phi-4-mini"),
        ("phi-4", "phi-4"),
        ("Qwen3-40B", None),
        ("", None),
    ],
)
def test_models_are_known_by_the_longest_name_they_begin_with(name: str, known: str | None) -> None:
    assert known_model(name) == known


def test_a_file_without_the_columns_or_rows_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "speeds.tsv"
    with pytest.raises(BenchError, match="cannot be read"):
        read_rows(path)
    path.write_text("model\tquant\n")
    with pytest.raises(BenchError, match="lacks the column machines"):
        read_rows(path)
    path.write_text("\t".join(COLUMNS) + "\nQwen3-8B\n")
    assert [reason for _, reason in separate(read_rows(path))[1]] == ["has no decode speed"]
    with pytest.raises(BenchError, match="no row that can be compared"):
        compare_published(path)


def test_the_command_prints_errors_as_fractions_and_what_it_left_out() -> None:
    outcome = CliRunner().invoke(app, ["plan", "--published", str(packaged_file()), "--json"])
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(outcome.stdout)
    errors = sorted(abs(row["predicted"] / row["measured"] - 1) for row in result["rows"])
    assert result["compared"] == len(errors)
    assert result["worst_error"] == pytest.approx(errors[-1])
    assert any("experts" in row["reason"] for row in result["not_compared"])
    # These rows had no part in the fit of decode times.
    assert result["tensor_groups"]["compared"] >= 4
    assert result["tensor_groups"]["median_error"] < 0.2
    default = CliRunner().invoke(app, ["plan", "--published", "--json"])
    assert default.stdout == outcome.stdout
    assert "median error" in CliRunner().invoke(app, ["plan", "--published"]).output


def test_a_file_needs_the_option_published() -> None:
    assert CliRunner().invoke(app, ["plan", "speeds.tsv"]).exit_code == 2
