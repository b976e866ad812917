"""Processes that have imported their service and wait to run it.

Importing takes a service a second or more. A supervisor therefore keeps a standby of each worker
beside it, which takes the place of a process that died at once. The supervisor holds the write end
of a pipe: a message starts the service, end-of-file ends the standby.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

STANDBY_VARIABLE: Final = "POMONA_STANDBY_FD"
MAX_MESSAGE: Final = 4096
"""Bytes that a pipe takes at once."""


def turn_message(variables: Mapping[str, str]) -> bytes:
    """Encodes what starts a standby: variables for its environment, cut to one write."""
    lines = [f"{name}={value}".replace("\n", " ") for name, value in variables.items()]
    return "\n".join(["", *lines, ""]).encode()[:MAX_MESSAGE]


def wait_for_turn() -> None:
    """Returns at once, or in a standby when its supervisor starts it.

    Raises SystemExit when the supervisor has no use for the standby, or has ended.
    """
    value = os.environ.pop(STANDBY_VARIABLE, "")
    if not value.isdecimal():
        return
    descriptor = int(value)
    try:
        message = os.read(descriptor, MAX_MESSAGE)
    finally:
        os.close(descriptor)
    if not message:
        raise SystemExit(0)
    for line in message.decode(errors="replace").split("\n"):
        name, separator, value = line.partition("=")
        if separator:
            os.environ[name] = value
