"""The operator's choices for machines, which a gateway states and the planner confirms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pomona.messages.limits import MAX_STAGES, Count, LayerIndex, Name, Order, Text


@dataclass(frozen=True, slots=True)
class MachineChoice:
    """What the operator has chosen for one machine, beside the planner's settings.

    Attributes:
        machine: name of a node or of a stage worker.
        kind: ``exclude`` it from every pipeline, ``pin`` layers ``[start, stop)`` of a model to it,
            or ``cap`` the memory for its weights and caches at ``memory_bytes``.
        model: name of the model whose layers are pinned; empty for every model.
    """

    machine: Name
    kind: Literal["exclude", "pin", "cap"]
    model: Text = ""
    start: LayerIndex = 0
    stop: LayerIndex = 0
    memory_bytes: Count = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """The choices for all machines. A gateway repeats the one that it wants until the planner's
    beacon has one that is at least as new.

    Attributes:
        choices: at most one for each machine.
        at: place in the planner's order: above every placement that the gateway has seen. The
            highest wins.
        refused: why the planner keeps its former choices instead; empty when it has taken these.
    """

    choices: Annotated[tuple[MachineChoice, ...], Field(max_length=MAX_STAGES)] = ()
    at: Order = 0.0
    refused: Text = ""
