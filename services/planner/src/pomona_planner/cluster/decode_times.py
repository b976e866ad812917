"""Fitted times of decoding on Apple machines, from ``data/decode_times.toml``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pomona_planner.cost_model.kernel_times import KernelTimes

_OLDER = re.compile(r"\bM[12]\b")


@dataclass(frozen=True, slots=True)
class DecodeTimes:
    """Times of one user's token that the nominal figures of a machine do not give.

    Attributes:
        achieved: share of the nominal memory bandwidth that reading 4-bit weights reaches.
        achieved_ultra: the same on Ultra chips, whose two dies share the memory.
        layer_us: small kernels of a layer with full attention, microseconds.
        latent_us, linear_us, sliding_us: the same with this kind of attention.
        experts_us: small kernels that experts add to a layer, microseconds.
        ultra_layers: factor of all small kernels on Ultra chips.
        older_layers: the same on the chips of the generations M1 and M2.
        bandwidth_8bit, bandwidth_16bit: bandwidth of such weights over that of 4-bit ones.
    """

    achieved: float
    achieved_ultra: float
    layer_us: float
    latent_us: float
    linear_us: float
    sliding_us: float
    experts_us: float
    ultra_layers: float
    older_layers: float
    bandwidth_8bit: float
    bandwidth_16bit: float

    def bandwidth(self, chip: str, nominal: float) -> float:
        """Returns the achieved bytes per second. Args: chip: name that the chip reports."""
        return nominal * (self.achieved_ultra if "Ultra" in chip else self.achieved)

    def layer_s(self, chip: str) -> float:
        """Returns the seconds of a layer's small kernels."""
        factor = self.ultra_layers if "Ultra" in chip else 1.0
        factor *= self.older_layers if _OLDER.search(chip) else 1.0
        return self.layer_us / 1e6 * factor

    @property
    def kernels(self) -> KernelTimes:
        return KernelTimes(
            latent=self.latent_us / self.layer_us,
            linear=self.linear_us / self.layer_us,
            sliding=self.sliding_us / self.layer_us,
            experts=self.experts_us / self.layer_us,
            bandwidth=((4.5, 1.0), (8.5, self.bandwidth_8bit), (16.0, self.bandwidth_16bit)),
        )


@cache
def load_decode_times() -> DecodeTimes:
    content = tomllib.loads(files("pomona_planner").joinpath("data/decode_times.toml").read_text())
    return DecodeTimes(**content)
