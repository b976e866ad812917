"""What can go wrong when a model is cut.

PomonaError
└── ModelError
    └── SlicingError
        ├── IllegalCutError     the model cannot be cut there
        └── ActivationsError    what arrived is not what the first layer of a stage takes
"""

from pomona.errors import ModelError


class SlicingError(ModelError):
    """A model cannot be cut, or a cut model cannot run, as asked."""


class IllegalCutError(SlicingError):
    """The range `[start, stop)` does not begin and end at legal cuts of the model."""

    def __init__(
        self, start: int, stop: int, layer_count: int, legal: list[int], why: str | None
    ) -> None:
        self.start = start
        self.stop = stop
        self.layer_count = layer_count
        self.legal = legal
        self.why = why
        remedy = f"cut it at {legal} only" if legal else f"it must run whole: {why}"
        super().__init__(
            f"layers [{start}, {stop}) cannot be a stage of this model of {layer_count} layers; "
            + remedy
        )


class ActivationsError(SlicingError):
    """The activations given to a stage are not those its first layer takes."""

    def __init__(self, start: int, expected: int, got: int) -> None:
        self.start = start
        self.expected = expected
        self.got = got
        super().__init__(
            f"the stage that starts at layer {start} takes {expected} activation arrays, "
            f"got {got}; pass on exactly what the stage before it returned"
        )
