"""``pomona plan``: arithmetic checked by hand, and remedies when nothing fits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from pomona.errors import ConfigurationError
from pomona_ops.commands.plan import PlanOptions, make_plan, model_facts, run_plan
from pomona_planner.cluster.from_spec import parse_cluster
from pomona_planner.cluster.machine_catalog import load_machine_catalog


def plan(model: str, cluster: str, **options: Any) -> dict[str, object]:
    arguments = PlanOptions(model, cluster, **options)
    return make_plan(model_facts(model, 4.5), cluster, arguments)


def test_the_ceiling_of_deepseek_v3_on_eight_m4_pro_is_about_13_tokens_a_second() -> None:
    for options in ({}, {"wired_percent": 85}):
        found = plan("deepseek-v3", "8x:m4-pro-64gb", **options)
        assert found["ceiling_tokens_per_second"] == pytest.approx(273 / 20.6, rel=0.01)


def test_a_model_that_does_not_fit_reports_missing_memory_and_remedies() -> None:
    found = plan("llama-4-maverick", "4x:m4-pro-64gb")
    assert not found["fits"]
    assert found["missing_bytes"] == pytest.approx(32.6e9, rel=0.01)
    assert any("wired limit" in str(remedy) for remedy in found["would_fit"])  # type: ignore[union-attr]  # a list
    assert plan("llama-4-maverick", "5x:m4-pro-64gb")["fits"]
    assert plan("llama-4-maverick", "4x:m4-pro-64gb", wired_percent=92)["fits"]


def test_remedies_name_the_most_users_and_the_largest_context_that_fit() -> None:
    found = plan("llama-3.3-70b", "1x:m4-max-128gb", users=100)
    fewer = next(x for x in map(str, found["would_fit"]) if "to each user" in x)  # type: ignore[arg-type]  # a list
    tokens = int(fewer.split()[1])
    assert plan("llama-3.3-70b", "1x:m4-max-128gb", users=100, context=tokens)["fits"]
    less = next(x for x in map(str, found["would_fit"]) if "users instead" in x)  # type: ignore[arg-type]  # a list
    users = int(less.split()[3])
    assert plan("llama-3.3-70b", "1x:m4-max-128gb", users=users)["fits"]
    assert not plan("llama-3.3-70b", "1x:m4-max-128gb", users=users + 1)["fits"]


def test_more_stages_than_machines_are_rejected_with_the_maximum() -> None:
    found = plan("llama-3.3-70b", "1x:m4-max-128gb", stages=2)
    assert found["reason"] == "2 stages were requested, but there is 1 machine"
    assert found["would_fit"] == ["request 1 at most"]


def test_a_machine_without_a_port_for_the_link_is_noted() -> None:
    notes = plan("llama-3.3-70b", "8x:m1-16gb,m4-pro-64gb")["notes"]
    assert isinstance(notes, list)
    assert notes[0] == "m1 has Thunderbolt 3, not 5: plan with --link tb4"
    assert plan("llama-3.3-70b", "8x:m1-16gb", link="tb4")["notes"] == []


def test_one_machine_is_used_when_it_is_faster_alone() -> None:
    found = plan("llama-3.3-70b", "4x:m4-max-128gb")
    assert len(found["stages"]) == 1  # type: ignore[arg-type]  # a list
    many = plan("llama-3.3-70b", "4x:m4-max-128gb", objective="throughput", users=16)
    assert many["users_tokens_per_second"] > found["tokens_per_second"]  # type: ignore[operator]  # floats


def test_stages_cover_the_model_within_memory() -> None:
    found = plan("deepseek-v3", "9x:m4-pro-64gb", users=4)
    stages = found["stages"]
    assert isinstance(stages, list)
    assert stages[0]["start"] == 0
    assert stages[-1]["stop"] == 61
    assert all(a["stop"] == b["start"] for a, b in pairwise(stages))
    assert all(stage["memory_bytes"] <= stage["usable_bytes"] for stage in stages)


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [("deepseek-v3", 671.0, 37), ("llama-4-maverick", 400, 17), ("qwen3-235b-a22b", 235, 22)],
)
def test_known_models_have_their_published_sizes(name: str, total: float, active: float) -> None:
    facts = model_facts(name, 8.0)
    active_parameters = (
        sum(layer.active_parameters for layer in facts.layers) + facts.head.parameters
    )
    assert facts.stored_bytes / 1e9 == pytest.approx(total, rel=0.005)
    assert active_parameters / 1e9 == pytest.approx(active, rel=0.06)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("deepseek-v3", {"context": 10**8}, "takes 163840 tokens at most"),
        ("deepseek-v3", {"context": 512, "prompt": 513}, "raise --context"),
        ("SmolLM2-135M-Instruct", {"bits": 4.0}, "known by name"),
        ("deepseek-v3", {"cluster": "8x:m4-pro"}, "write 8x:m4-pro-64gb"),
    ],
)
def test_invalid_options_are_rejected(
    model: str, options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {"cluster": "9x:m4-pro-64gb", **options}
    assert run_plan(PlanOptions(model, **arguments)) == 2
    assert message in capsys.readouterr().err


def test_a_short_context_shortens_the_default_prompt() -> None:
    assert plan("deepseek-v3", "9x:m4-pro-64gb", context=512)["prompt_tokens"] == 512


@pytest.mark.parametrize("text", ["8x:m9-64gb", "8x:m4-pro-65gb", "17x:m4-16gb", "", "m4-pro"])
def test_an_invalid_cluster_spec_is_rejected(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_cluster(text)


def test_the_exit_status_tells_whether_the_model_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(PlanOptions("llama-4-maverick", "4x:m4-pro-64gb")) == 1
    assert "does not fit" in capsys.readouterr().out
    assert run_plan(PlanOptions("llama-4-maverick", "8x:m4-pro-64gb", as_json=True)) == 0
    assert run_plan(PlanOptions("nothing", "8x:m4-pro-64gb")) == 2


def test_every_figure_has_a_source_or_is_marked_as_unsure() -> None:
    figures = {"gigabytes_per_s", "teraflops_fp16", "idle_watts", "busy_watts", "prices"}
    for kind in load_machine_catalog().kinds:
        assert kind.specs.startswith(("https://support.apple.com/", "https://www.apple.com/"))
        assert all(url.startswith("https://") for url in kind.sources.values())
        named = [*kind.unsure, *kind.sources]
        assert len(set(named)) == len(named), "a figure has a source or is unsure, not both"
        assert set(named) <= figures
        assert "teraflops_fp16" in named, "Apple publishes none"


def test_a_plan_names_the_sources_and_the_unsure_figures_of_its_machines() -> None:
    measured, estimated = (
        plan("deepseek-v3", f"8x:{kind}") for kind in ("m4-max-64gb", "m5-pro-64gb")
    )
    assert "https://support.apple.com/122211" in measured["sources"]  # type: ignore[operator]  # a list
    assert any("github.com" in url for url in measured["sources"])  # type: ignore[attr-defined]  # a list
    assert measured["unsure"] == []
    assert estimated["unsure"] == ["busy_watts", "idle_watts", "teraflops_fp16"]


def test_a_draft_model_is_planned_with_and_without() -> None:
    options: dict[str, Any] = {"stages": 4, "draft": "qwen3-0.6b"}
    found: dict[str, Any] = plan("qwen3-32b", "4x:m4-pro-64gb", **options)
    plain: dict[str, Any] = plan("qwen3-32b", "4x:m4-pro-64gb", stages=4)
    assert found["tokens_per_second"] == plain["tokens_per_second"]
    assert found["guessed_tokens_per_second"] > 1.3 * found["tokens_per_second"]
    assert found["acceptance"] == 0.6
    assert found["cache_tokens"] <= plain["cache_tokens"]
    assert plain["guessed_tokens_per_second"] == 0
    assert "--draft names none" in plain["unused_drafts"]["draft model"]
    better: dict[str, Any] = plan("qwen3-32b", "4x:m4-pro-64gb", acceptance=0.9, **options)
    assert better["guessed_tokens_per_second"] > found["guessed_tokens_per_second"]


def test_a_draft_model_of_another_vocabulary_is_refused_with_the_sizes() -> None:
    found: dict[str, Any] = plan("qwen3-32b", "4x:m4-pro-64gb", draft="SmolLM2-135M-Instruct")
    assert "49152 tokens, not 151936" in found["unused_drafts"]["draft model"]
    assert found["draft_model"] == ""


def test_the_speed_with_guesses_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    options = PlanOptions("qwen3-32b", "4x:m4-pro-64gb", stages=4, draft="qwen3-0.6b")
    assert run_plan(options) == 0
    printed = capsys.readouterr().out
    assert "with guesses" in printed
    assert "by qwen3-0.6b" in printed
    assert run_plan(PlanOptions("qwen3-32b", "m4-pro-64gb", draft="/no/such/model")) == 2
