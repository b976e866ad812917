"""Time of a layer that reading weights does not explain, by kind of attention and experts.

A layer runs dozens of small kernels, and each takes some microseconds to start. Latent and linear
attention run more kernels than full attention, and so do experts: a router, and products with
gathered weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from pomona.models import LayerFacts

REFERENCE_BITS = 4.5
"""Bits per weight, scales included, of 4-bit weights, which machines are measured with."""


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """Times of kernels and of reading, as factors. The defaults treat all layers alike.

    Attributes:
        latent, linear, sliding: small kernels of a layer with this attention, as a multiple of
            those of a layer with full attention (``Machine.layer_s``).
        experts: small kernels that experts add, in the same unit.
        bandwidth: bandwidth that reading weights reaches over that of 4-bit weights, by bits per
            weight. Linear between the entries, constant outside.
    """

    latent: float = 1.0
    linear: float = 1.0
    sliding: float = 1.0
    experts: float = 0.0
    bandwidth: tuple[tuple[float, float], ...] = ((REFERENCE_BITS, 1.0),)

    def layer(self, layer: LayerFacts) -> float:
        """Returns the small kernels of a layer as a multiple of ``Machine.layer_s``."""
        factors: Mapping[str, float] = {
            "full": 1.0,
            "latent": self.latent,
            "linear": self.linear,
            "sliding": self.sliding,
        }
        return factors[layer.attention] + (self.experts if layer.idle_parameters else 0.0)

    def bandwidth_factor(self, part: LayerFacts) -> float:
        """Returns the bandwidth of reading a part over that of 4-bit weights."""
        bits = 8 * part.stored_bytes / part.parameters
        if bits <= self.bandwidth[0][0]:
            return self.bandwidth[0][1]
        for (low, slow), (high, fast) in pairwise(self.bandwidth):
            if bits <= high:
                return slow + (fast - slow) * (bits - low) / (high - low)
        return self.bandwidth[-1][1]


UNIFORM = KernelTimes()
