"""Reads the machine's certificates once for all HTTP clients of a process.

An HTTP client reads them when it is made, even for http://. That takes 50 ms, and tests make a
client for nearly every request.
"""

from __future__ import annotations

import functools
import ssl


def read_once() -> None:
    """Makes :func:`ssl.create_default_context` return the same context for the same arguments."""
    ssl.create_default_context = functools.cache(ssl.create_default_context)
