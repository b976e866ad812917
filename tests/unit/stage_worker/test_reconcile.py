"""A worker obeys rising epochs only; a stale plan changes nothing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import Pipeline, Stage
from pomona_stage_worker.reconcile import Install, accept_plan, reconcile, wanted_stages

WORKER, ENDPOINT = "a", "tcp://a:1"


def pipeline(epoch: int, source: str = "m", empty: bool = False) -> Pipeline:
    stages = () if empty else (Stage(WORKER, 0, 4, ENDPOINT),)
    return Pipeline(source, source, epoch, 4, "impossible" if empty else "active", stages)


class Worker:
    def __init__(self) -> None:
        self.held: dict[int, Install] = {}
        self.obeyed: dict[str, int] = {}

    def obey(self, *plan: Pipeline) -> list[int]:
        """Applies a plan. Returns the epochs held."""
        accepted, self.obeyed = accept_plan(plan, self.obeyed, self.held)
        wanted = wanted_stages(accepted, WORKER, ENDPOINT)
        for action in reconcile(wanted, self.held):
            if isinstance(action, Install):
                self.held[action.pipeline.epoch] = action
            elif action.__class__.__name__ == "Remove":
                del self.held[action.epoch]  # type: ignore[union-attr]  # a Remove
        return sorted(self.held)


def test_a_lower_epoch_changes_nothing() -> None:
    worker = Worker()
    assert worker.obey(pipeline(9)) == [9]
    assert worker.obey(pipeline(5)) == [9]
    assert worker.obey(pipeline(0, empty=True)) == [9]
    assert worker.obey(pipeline(10, empty=True)) == []
    assert worker.obey(pipeline(9)) == []
    assert worker.obey(pipeline(11)) == [11]


def test_the_same_epoch_comes_back_after_an_empty_plan() -> None:
    worker = Worker()
    assert worker.obey(pipeline(9)) == [9]
    assert worker.obey() == []
    assert worker.obey(pipeline(9)) == [9]


def test_a_new_capacity_is_taken_in_the_same_epoch() -> None:
    worker = Worker()
    worker.obey(pipeline(9))
    larger = replace(pipeline(9), cache_tokens=100)
    accepted, _ = accept_plan([larger], worker.obeyed, worker.held)
    (action,) = reconcile(wanted_stages(accepted, WORKER, ENDPOINT), worker.held)
    assert action.install.pipeline.cache_tokens == 100  # type: ignore[union-attr]  # a Resize


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.sampled_from("mn")), max_size=2), max_size=12)
)
def test_a_model_is_never_held_in_an_epoch_below_one_that_was_obeyed(
    plans: list[list[tuple[int, str]]],
) -> None:
    worker = Worker()
    highest: dict[str, int] = {}
    for plan in plans:
        # Epochs of different models differ: they share one sequence.
        worker.obey(*(pipeline(10 * epoch + (source == "n"), source) for epoch, source in plan))
        for install in worker.held.values():
            source, epoch = install.pipeline.source, install.pipeline.epoch
            assert epoch >= highest.get(source, 0)
            highest[source] = epoch
