"""Pins: layers that the operator assigns to a node, written ``mini-1=0..20``.

A pin may be for one model only: ``mini-1=0..20@Qwen3-4B-4bit``, by the name that clients use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PIN = re.compile(r"^(?P<node>[^=@\s]+)=(?P<start>\d+)\.\.(?P<stop>\d+)(?:@(?P<model>\S+))?$")


@dataclass(frozen=True, slots=True)
class Pin:
    """Assignment of layers ``[start, stop)`` to a node.

    Attributes:
        node: name of a node or of a stage worker.
        model: name of the model; empty for every model.
    """

    node: str
    start: int
    stop: int
    model: str = ""


def parse_pin(text: str) -> Pin:
    """Raises ValueError, with the expected form, when the text is not a pin."""
    match = _PIN.match(text)
    if match is None or int(match["start"]) >= int(match["stop"]):
        raise ValueError(
            f"{text!r} is not a valid pin; write NODE=START..STOP, such as mini-1=0..20, and "
            "append @MODEL when it is for one model only"
        )
    return Pin(match["node"], int(match["start"]), int(match["stop"]), match["model"] or "")


def pins_for_model(pins: Iterable[Pin], model: str) -> tuple[Pin, ...]:
    """Returns one pin for each node; a pin that names the model overrides one for every model."""
    ordered = sorted(
        (pin for pin in pins if pin.model in ("", model)), key=lambda pin: not pin.model
    )
    return tuple({pin.node: pin for pin in reversed(ordered)}.values())
