"""A draft model is used only if its guesses mean the same, and the reason is told otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pomona.models import EMBEDDED_MODEL
from pomona.models.draft_models import draft_pairs, known_draft, vocabulary_difference
from pomona.models.formats.vocabulary import read_vocabulary
from pomona_planner.control.pipeline_controller import PipelineController
from pomona_planner.control.proposal import PipelineSpec
from pomona_planner.cost_model.memory import draft_bytes
from pomona_planner.cost_model.prediction import predict
from pomona_planner.cost_model.problem import Aim
from pomona_planner.cost_model.speculation import guessed_tokens_per_second
from pomona_planner.draft_choice import choose_draft
from pomona_planner.solver.optimizer import OptimizedPlan, choose
from support.planner_beacons import FACTS, form, worker
from support.planner_instances import problem_from_beacons


def vocabulary_folder(folder: Path, change: dict[str, str]) -> Path:
    """Writes the tokenizer of the embedded model with some tokens renamed."""
    folder.mkdir()
    tokenizer = json.loads(read_vocabulary(FACTS.path).to_str())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {change.get(x, x): number for x, number in vocabulary.items()}
    renamed = set(change)
    tokenizer["model"]["merges"] = [
        merge for merge in tokenizer["model"]["merges"] if not renamed & {*merge, "".join(merge)}
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_a_model_of_the_same_vocabulary_is_chosen() -> None:
    choice = choose_draft(EMBEDDED_MODEL, FACTS)
    assert choice.source == EMBEDDED_MODEL
    assert choice.facts is not None
    assert set(choice.unused) == {"prediction heads"}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("", "POMONA_PLANNER_DRAFT_MODEL names none"),
        ("auto", "none is known for SmolLM2-135M-Instruct"),
        ("/no/such/model", "/no/such/model"),
    ],
)
def test_the_reason_is_told_when_there_is_none(wanted: str, reason: str) -> None:
    choice = choose_draft(wanted, FACTS)
    assert choice.source == ""
    assert reason in choice.unused["draft model"]


@pytest.mark.slow
def test_another_vocabulary_is_refused_with_the_first_token_that_differs(tmp_path: Path) -> None:
    same = vocabulary_folder(tmp_path / "same", {})
    assert vocabulary_difference(FACTS.path, same) == ""
    token = read_vocabulary(FACTS.path).id_to_token(40000)
    assert token is not None
    other = vocabulary_folder(tmp_path / "other", {token: "another"})
    difference = vocabulary_difference(FACTS.path, other)
    assert difference == f"its vocabulary is another one: token 40000 is 'another', not {token!r}"


def test_the_table_names_small_models_for_large_ones_only() -> None:
    assert known_draft("mlx-community/Qwen3-32B-4bit", 32 * 10**9).endswith("Qwen3-0.6B-4bit")
    assert known_draft("mlx-community/Qwen3-0.6B-4bit", 6 * 10**8) == ""
    assert known_draft("Meta-Llama-3.3_70B-Instruct-4bit", 70 * 10**9)
    assert known_draft("mixtral-8x7b", 47 * 10**9) == ""
    assert all(pair.source and pair.least_parameters >= 1e9 for pair in draft_pairs())


def test_the_head_keeps_memory_for_the_draft_model() -> None:
    problem = problem_from_beacons(9e9, 9e9)
    drafted = replace(problem, draft=FACTS)
    plan = choose(problem, Aim(stages=2))
    assert isinstance(plan, OptimizedPlan)
    before, after = predict(problem, plan.plan), predict(drafted, plan.plan)
    assert draft_bytes(FACTS, full_precision=True) > 4 * FACTS.parameters
    assert after.cache_tokens < before.cache_tokens
    assert after.tokens_per_second == before.tokens_per_second
    assert after.guess_us > 0
    assert after.guessed_tokens_per_second >= after.tokens_per_second


def test_a_pipeline_names_its_draft_model_or_why_it_does_not_fit() -> None:
    choice = choose_draft(EMBEDDED_MODEL, FACTS)
    spec = PipelineSpec(
        EMBEDDED_MODEL,
        stages=2,
        draft=choice.facts,
        draft_source=choice.source,
        unused_drafts=choice.unused,
    )
    roomy = form(PipelineController(spec, FACTS, None))
    assert roomy.draft_source == EMBEDDED_MODEL
    assert set(roomy.unused_drafts) == {"prediction heads"}
    assert roomy.prediction is not None
    assert roomy.prediction.acceptance == 0.6
    small = [worker(name, memory=900 * 10**6) for name in "ab"]
    tight = PipelineController(spec, FACTS, None).decide(small, 7, 100.0)
    assert tight.state == "forming"
    assert tight.draft_source == ""
    assert "memory" in tight.unused_drafts["draft model"]


@pytest.mark.parametrize(("stages", "acceptance", "gain"), [(4, 0.7, 2.1), (8, 0.8, 3.33)])
def test_equal_stages_gain_what_the_formula_says(
    stages: int, acceptance: float, gain: float
) -> None:
    speed = guessed_tokens_per_second([0.01] * stages, [0.0] * stages, acceptance)
    assert speed * 0.01 * stages == pytest.approx(gain, abs=0.01)  # type: ignore[reportUnknownMemberType]
    slow = guessed_tokens_per_second([0.01] * stages, [0.0] * stages, acceptance, guess_s=0.1)
    assert slow * 0.01 * stages == pytest.approx(1.0, abs=0.01)  # type: ignore[reportUnknownMemberType]
