"""Requests to a gateway about models."""

from __future__ import annotations

import time
from typing import Any

import httpx
from rich.console import Console

from pomona.errors import ConfigurationError, ModelError
from pomona_ops.cluster.ports import LOOPBACK, ClusterPorts

DEADLINE_S = 10.0
POLL_S = 0.2
IMPOSSIBLE_S = 5.0
"""Seconds for which a plan may be impossible: the planner may still wait for workers."""
LOAD_DEADLINE_S = 4 * 3600.0
"""Long enough to download hundreds of gigabytes over a slow line."""


class GatewayClient:
    """Sends requests to the gateway of a cluster.

    Args:
        key: API key; empty sends none.
    """

    def __init__(self, port: int, key: str) -> None:
        self._url = f"http://{LOOPBACK}:{ClusterPorts(port).gateway}"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def models(self) -> dict[str, dict[str, Any]]:
        """Returns the planned models by name, as in ``/readyz``. Empty without a gateway."""
        try:
            answer = httpx.get(f"{self._url}/readyz", timeout=DEADLINE_S, trust_env=False)
        except httpx.HTTPError:
            return {}
        return answer.json().get("models", {})

    def load(self, model: str, wait: bool, console: Console) -> dict[str, Any]:
        """Has a model loaded. Raises ModelError with the reason when that fails."""
        answer = self._post("load", model)
        if not wait:
            return answer
        name = answer["id"]
        with console.status(f"loading {name}") as status:
            ends_at = time.monotonic() + LOAD_DEADLINE_S
            possible_at = time.monotonic()
            while time.monotonic() < ends_at:
                entry = self.models().get(name)
                if entry is not None:
                    if entry["ready"]:
                        return {**answer, "state": "ready"}
                    failed = any(stage["state"] == "failed" for stage in entry["stages"])
                    if entry["state"] != "impossible":
                        possible_at = time.monotonic()
                    if failed or time.monotonic() - possible_at > IMPOSSIBLE_S:
                        raise ModelError(f"{name} cannot be loaded: {entry['reason']}")
                    status.update(f"loading {name}: {entry['reason']}")
                time.sleep(POLL_S)
        raise ModelError(
            f"{name} was not loaded within {LOAD_DEADLINE_S / 3600:g} hours; see `pomona status`"
        )

    def unload(self, model: str, wait: bool) -> dict[str, Any]:
        """Has a model unloaded. Raises ModelError with the reason when that is refused."""
        answer = self._post("unload", model)
        ends_at = time.monotonic() + DEADLINE_S
        while wait and time.monotonic() < ends_at:
            if answer["id"] not in self.models():
                return {**answer, "state": "unloaded"}
            time.sleep(POLL_S)
        return answer

    def _post(self, action: str, model: str) -> dict[str, Any]:
        try:
            answer = httpx.post(
                f"{self._url}/v1/models/{action}",
                json={"model": model},
                headers=self._headers,
                timeout=DEADLINE_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise ConfigurationError(
                f"no gateway answers at {self._url}. Start a cluster with `pomona up`, or pass "
                "its port with --port"
            ) from error
        if not answer.is_success:
            raise ModelError(str(answer.json()["error"]["message"]))
        return answer.json()
