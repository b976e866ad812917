"""Pins: layers that the operator gives to a node, as ``mini-1=0..20``.

With several models ``mini-1=0..20@Qwen3-4B-4bit`` is for one of them, by the name that clients use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PIN = re.compile(r"^(?P<node>[^=@\s]+)=(?P<start>\d+)\.\.(?P<stop>\d+)(?:@(?P<model>\S+))?$")


@dataclass(frozen=True, slots=True)
class Pin:
    """Layers ``[start, stop)`` belong on ``node``.

    Attributes:
        node: a node's name, or a stage worker's.
        model: by name; empty for every model.
    """

    node: str
    start: int
    stop: int
    model: str = ""


def parse_pin(text: str) -> Pin:
    """Raises ValueError saying how a pin is written."""
    match = _PIN.match(text)
    if match is None or int(match["start"]) >= int(match["stop"]):
        raise ValueError(
            f"{text!r} is no pin; write NODE=START..STOP, such as mini-1=0..20, and @MODEL after "
            "it when it is for one model only"
        )
    return Pin(match["node"], int(match["start"]), int(match["stop"]), match["model"] or "")


def pins_of(pins: Iterable[Pin], model: str) -> tuple[Pin, ...]:
    """Those that are for a model; one that names it goes before one for every model."""
    named = sorted((pin for pin in pins if pin.model in ("", model)), key=lambda pin: not pin.model)
    return tuple({pin.node: pin for pin in reversed(named)}.values())
