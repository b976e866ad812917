"""Errors of cutting a model.

PomonaError
└── ModelError
    └── SlicingError
        ├── IllegalCutError     the range is not bounded by legal cuts
        └── ActivationsError    the stage received the wrong number of arrays
"""

from pomona.errors import ModelError


class SlicingError(ModelError):
    """A model cannot be cut as requested, or a stage cannot run with its inputs."""


class IllegalCutError(SlicingError):
    """The range `[start, stop)` is not bounded by legal cuts of the model."""

    def __init__(
        self, start: int, stop: int, layer_count: int, legal: list[int], why: str | None
    ) -> None:
        self.start = start
        self.stop = stop
        self.layer_count = layer_count
        self.legal = legal
        self.why = why
        remedy = f"legal cuts are {legal}" if legal else f"it must run whole: {why}"
        super().__init__(
            f"layers [{start}, {stop}) are not a valid stage of this {layer_count}-layer model; "
            + remedy
        )


class ActivationsError(SlicingError):
    """A stage received another number of activation arrays than cross its start."""

    def __init__(self, start: int, expected: int, got: int) -> None:
        self.start = start
        self.expected = expected
        self.got = got
        super().__init__(
            f"the stage that starts at layer {start} takes {expected} activation arrays, "
            f"got {got}; pass on exactly what the stage before it returned"
        )
