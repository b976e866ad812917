"""Keeps the GPU and its memory awake between requests.

About a second after a GPU's last work macOS unwires its memory and lowers its clock. The next step
would pay for both, in every stage in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import psutil

BATTERY_INTERVAL_S: Final = 30.0
"""Interval between two looks at the power source."""


class GpuWarmth:
    """Computes something tiny from time to time after the last step. Used by the step thread.

    Args:
        compute: the tiny computation.
        keep_s: how long after the last step the GPU is kept warm, seconds; 0 never.
        is_on_battery: returns True when the machine runs on its battery.
    """

    def __init__(
        self, compute: Callable[[], None], keep_s: float, is_on_battery: Callable[[], bool]
    ) -> None:
        self._compute = compute
        self._keep_s = keep_s
        self._is_on_battery = is_on_battery
        self._on_battery = False
        self._looked_at = float("-inf")

    def rest(self, idle_s: float) -> None:
        """Computes if the last step was ``idle_s`` ago. Call it every half second."""
        if idle_s < self._keep_s and not self._spares_battery():
            self._compute()

    def _spares_battery(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= BATTERY_INTERVAL_S:
            self._looked_at = now
            self._on_battery = self._is_on_battery()
        return self._on_battery


def tiny_product() -> None:
    """Multiplies two small matrices on MLX's default device."""
    import mlx.core as mx

    x = mx.ones((16, 16))
    mx.eval(x @ x)


def is_on_battery() -> bool:
    """Returns True on a laptop that is not plugged in."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False
