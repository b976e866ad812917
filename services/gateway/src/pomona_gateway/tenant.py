"""The tenant of the request that the current task serves: the API key it came with."""

from __future__ import annotations

from contextvars import ContextVar

_current: ContextVar[str] = ContextVar("tenant", default="")


def current_tenant() -> str:
    """Returns the id of the request's API key; empty without one."""
    return _current.get()


def set_tenant(tenant: str) -> None:
    """Sets the tenant of the current task and of the tasks that it starts."""
    _current.set(tenant)
