"""The story of a restart ends with "ready again", with the time since the death."""

from __future__ import annotations

from pomona_ops.up.readiness_story import UNREADY_S, Readiness


class Story:
    def __init__(self) -> None:
        self.readiness = Readiness(0.0, "smol", "http://h:1")

    def at(
        self, now: float, reason: str = "", is_settled: bool = True, died_at: float | None = None
    ) -> list[str]:
        return [line.text for line in self.readiness.update(reason, is_settled, died_at, now)]


def test_a_first_start_is_told_once() -> None:
    story = Story()
    assert story.at(1.0, "loading") == []
    assert story.at(2.0, is_settled=False) == []
    assert story.at(3.5) == ["ready after 3.5 s: smol at http://h:1/v1"]
    assert story.at(4.0) == []


def test_a_death_that_stops_serving_ends_with_ready_again_since_the_death() -> None:
    story = Story()
    story.at(1.0)
    assert story.at(10.2, "epoch 1 is forming", False, died_at=10.0) == []
    assert story.at(10.0 + UNREADY_S, "epoch 1 is forming", False, 10.0) == [
        "not ready: epoch 1 is forming"
    ]
    assert story.at(13.0, "epoch 1 is forming", False, 10.0) == [], "said once"
    assert story.at(14.0, "", False, 10.0) == [], "its pipeline is not active yet"
    assert story.at(14.5, "", True, 10.0) == ["ready again after 4.5 s: smol at http://h:1/v1"]
    assert story.at(15.0, "", True, 10.0) == []


def test_a_death_that_nobody_noticed_is_over_when_the_service_is_back() -> None:
    story = Story()
    story.at(1.0)
    assert story.at(10.1, "", False, 10.0) == []
    assert story.at(11.0, "", True, 10.0) == ["ready again after 1.0 s: smol at http://h:1/v1"]


def test_an_unloaded_model_is_idle_and_not_a_fault() -> None:
    story = Story()
    story.at(1.0)
    idle = "no model is loaded: the next request loads it"
    assert story.at(5.0, idle) == []
    assert story.at(5.0 + UNREADY_S, idle) == [f"idle: {idle}"]
    assert story.at(400.0) == ["a model is loaded: http://h:1/v1"]
