"""Every error Pomona raises on purpose.

PomonaError
├── ConfigurationError      a setting, or an argument of the command, cannot be used
├── ProtocolError           bytes that are no valid message
│   └── LinkGapError        a link lost messages
├── LinkError               a link cannot carry messages
│   ├── LinkBusyError       the peer did not take a message before the deadline
│   └── AddressInUseError   a port is taken
├── ModelError              a model cannot be found, read or run
│   ├── ModelNotFoundError
│   └── ModelUnsupportedError
└── RequestError            a request cannot be served; says which status a client gets
"""

from __future__ import annotations


class PomonaError(Exception):
    """Base of all errors that Pomona raises on purpose."""


class ConfigurationError(PomonaError):
    """A setting or an argument cannot be used; the message names it and what to change."""


class ProtocolError(PomonaError):
    """Bytes arrived that are no valid message. The message is dropped and counted."""


class LinkGapError(ProtocolError):
    """Messages of a link were lost, so the caches of the stages may differ."""

    def __init__(self, sender: str, expected: int, got: int) -> None:
        super().__init__(
            f"link from {sender}: expected message {expected}, got {got}; the epoch must end"
        )
        self.sender = sender
        self.expected = expected
        self.got = got


class LinkError(PomonaError):
    """A link cannot carry messages."""


class LinkBusyError(LinkError):
    """The peer of a link did not take a message before the deadline."""

    def __init__(self, endpoint: str, deadline_s: float) -> None:
        super().__init__(
            f"{endpoint} took no message within {deadline_s:g} s: "
            "its process is gone, stopped or overloaded"
        )
        self.endpoint = endpoint
        self.deadline_s = deadline_s


class AddressInUseError(LinkError):
    """A port that a service must bind is taken by another process."""

    def __init__(self, endpoint: str, setting: str) -> None:
        super().__init__(
            f"{endpoint} is in use by another process; stop it, or set {setting} to a free port"
        )
        self.endpoint = endpoint
        self.setting = setting


class ModelError(PomonaError):
    """A model cannot be found, read or run."""


class ModelNotFoundError(ModelError):
    """No model stands where the name or the path points."""


class ModelUnsupportedError(ModelError):
    """The model's files are readable, but Pomona cannot run them; the message says why."""


class RequestError(PomonaError):
    """A request that cannot be served.

    Args:
        status: the HTTP status a client gets.
        code: a short machine-readable reason, such as ``context_length_exceeded``.
        message: what happened and what to do.
        param: the request parameter at fault, when there is one.
        retry_after_s: when to try again, in seconds, for 429 and 503.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
