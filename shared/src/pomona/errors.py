"""Every error that Pomona raises on purpose.

PomonaError
├── ConfigurationError      a setting or a command argument is not valid
├── ProtocolError           received bytes are not a valid message
│   └── LinkGapError        messages of a link were lost
├── LinkError               a link cannot carry messages
│   ├── LinkBusyError       the peer did not take a message before the deadline
│   ├── LinkLostError       the connection was lost, with the messages under way
│   └── AddressInUseError   another process uses the port
├── TrustError              a key or a roster is not valid, or lacks the right
│   └── ClonedKeyError      the node's key was made on another machine
├── ModelError              a model cannot be found, read or run
│   ├── ModelNotFoundError
│   └── ModelUnsupportedError
└── RequestError            a request cannot be served; says which status a client gets
"""

from __future__ import annotations

from pathlib import Path


class PomonaError(Exception):
    """Base of all errors that Pomona raises on purpose."""


class ConfigurationError(PomonaError):
    """A setting or an argument is not valid. The message says how to change it."""


class ProtocolError(PomonaError):
    """Received bytes are not a valid message. The receiver drops and counts them."""


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


class LinkLostError(LinkError):
    """The connection of a link was lost and made again, so messages may be missing."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(
            f"the connection to {endpoint} was lost, perhaps with messages; the epoch must end"
        )
        self.endpoint = endpoint


class AddressInUseError(LinkError):
    """Another process uses a port that a service must bind."""

    def __init__(self, endpoint: str, setting: str) -> None:
        super().__init__(
            f"{endpoint} is in use by another process; stop it, or set {setting} to a free port"
        )
        self.endpoint = endpoint
        self.setting = setting


class TrustError(PomonaError):
    """A key or a roster of the cluster is not valid, or lacks the right to do this."""


class ClonedKeyError(TrustError):
    """The state folder of a node was copied from another machine.

    Args:
        made_on: host name of the machine that made the key.
        here: host name of this machine.
        path: file of the key.
    """

    def __init__(self, made_on: str, here: str, path: Path) -> None:
        super().__init__(
            f"the key in {path} was made on another machine, {made_on or 'unknown'}, and this is "
            f"{here}: the state folder was copied. Run `pomona keys new` to give this machine a "
            "key of its own, then join it to the cluster"
        )
        self.made_on = made_on
        self.here = here


class ModelError(PomonaError):
    """A model cannot be found, read or run."""


class ModelNotFoundError(ModelError):
    """The name or path does not lead to a model."""


class ModelUnsupportedError(ModelError):
    """The model's files are readable, but Pomona cannot run them; the message says why."""


class RequestError(PomonaError):
    """A request cannot be served.

    Args:
        status: HTTP status for the client.
        code: short machine-readable reason, for example ``context_length_exceeded``.
        message: what happened and what to do.
        param: the offending request parameter, if any.
        retry_after_s: seconds until a retry makes sense, for 429 and 503.
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
