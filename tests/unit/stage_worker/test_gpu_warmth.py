"""The GPU is kept warm for a while after the last step; its effect needs a Mac."""

from __future__ import annotations

import time
from types import SimpleNamespace

import psutil
import pytest

from pomona.messages.pipeline import Cancel
from pomona.transport import Identity, Pull, Push
from pomona_stage_worker.engine.step_loop import StepLoop
from pomona_stage_worker.hardware import gpu_warmth
from pomona_stage_worker.hardware.gpu_warmth import GpuWarmth, is_on_battery, tiny_product
from support.waiting import wait_until


class Recorded:
    """Records computations and looks at the power source."""

    def __init__(self, on_battery: bool = False) -> None:
        self.computed = 0
        self.looked = 0
        self.on_battery = on_battery

    def compute(self) -> None:
        self.computed += 1

    def look(self) -> bool:
        self.looked += 1
        return self.on_battery


def test_something_is_computed_until_the_time_is_over() -> None:
    gpu = Recorded()
    warmth = GpuWarmth(gpu.compute, 300, gpu.look)
    for idle_s in (0.5, 299.5, 300.0, 4000.0):
        warmth.rest(idle_s)
    assert gpu.computed == 2


def test_nothing_is_computed_when_the_setting_is_zero() -> None:
    gpu = Recorded()
    GpuWarmth(gpu.compute, 0, gpu.look).rest(0.5)
    assert gpu.computed == 0


def test_nothing_is_computed_on_battery_until_it_is_plugged_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gpu = Recorded(on_battery=True)
    warmth = GpuWarmth(gpu.compute, 300, gpu.look)
    warmth.rest(0.5)
    warmth.rest(1.0)
    assert (gpu.computed, gpu.looked) == (0, 1), "the power source is asked seldom"
    gpu.on_battery = False
    now += gpu_warmth.BATTERY_INTERVAL_S
    warmth.rest(1.5)
    assert (gpu.computed, gpu.looked) == (1, 2)


@pytest.mark.parametrize(
    ("battery", "expected"),
    [(None, False), (False, True), (True, False), ("unknown", False)],
    ids=["none", "unplugged", "plugged in", "unknown"],
)
def test_a_machine_is_on_battery_only_when_it_is_unplugged(
    battery: object, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugged = None if battery == "unknown" else battery
    found = None if battery is None else SimpleNamespace(power_plugged=plugged)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: found, raising=False)
    assert is_on_battery() is expected


def test_the_tiny_product_runs_on_any_device() -> None:
    tiny_product()


@pytest.mark.slow
def test_the_step_loop_tells_how_long_it_has_been_idle() -> None:
    idle: list[float] = []
    identity = Identity("pomona", "a.stage_worker", "boot")
    pull = Pull("127.0.0.1")
    loop = StepLoop(identity, pull, on_idle=idle.append)
    loop.start()
    push = Push(identity, pull.endpoint, queue_when_disconnected=True)
    try:
        wait_until(lambda: loop.is_alive(), "the loop runs")
        assert not idle, "a worker without a stage keeps nothing warm"
        loop.call(lambda: loop.runners.update({1: IdleRunner()}))  # type: ignore[dict-item]
        wait_until(lambda: len(idle) >= 2, "the loop is idle")
        assert 0 < idle[0] < idle[1]
        push.send(Cancel("request", 0))
        wait_until(lambda: idle[-1] < idle[-2], "a message begins the time anew")
    finally:
        push.close()
        assert loop.stop(10)


class IdleRunner:
    """A stage runner that never has work."""

    is_head = False
    failure = None
    scheduler = None
    step_activity = None

    def run_next_step(self) -> bool:
        return False

    def prepare(self) -> bool:
        return False

    def update_idle_load(self) -> None: ...

    def handle(self, message: object) -> None: ...

    def close(self, reason: str) -> None: ...
