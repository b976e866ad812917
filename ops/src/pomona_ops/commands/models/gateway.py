"""Asks a gateway about models."""

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
"""How long a plan may be impossible while the planner waits for workers to speak."""
LOAD_DEADLINE_S = 4 * 3600.0
"""A model of hundreds of gigabytes may come over a slow line."""


class GatewayClient:
    """Args: key: sent when it is given."""

    def __init__(self, port: int, key: str) -> None:
        self._url = f"http://{LOOPBACK}:{ClusterPorts(port).gateway}"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def models(self) -> dict[str, dict[str, Any]]:
        """The models in the plan, by name, as ``/readyz`` has them. Empty without a cluster."""
        try:
            answer = httpx.get(f"{self._url}/readyz", timeout=DEADLINE_S, trust_env=False)
        except httpx.HTTPError:
            return {}
        return answer.json().get("models", {})

    def load(self, model: str, wait: bool, console: Console) -> dict[str, Any]:
        """Raises ModelError saying why it cannot be loaded."""
        asked = self._post("load", model)
        if not wait:
            return asked
        name = asked["id"]
        with console.status(f"loading {name}") as status:
            ends_at = time.monotonic() + LOAD_DEADLINE_S
            possible_at = time.monotonic()
            while time.monotonic() < ends_at:
                entry = self.models().get(name)
                if entry is not None:
                    if entry["ready"]:
                        return {**asked, "state": "ready"}
                    failed = any(stage["state"] == "failed" for stage in entry["stages"])
                    if entry["state"] != "impossible":
                        possible_at = time.monotonic()
                    if failed or time.monotonic() - possible_at > IMPOSSIBLE_S:
                        raise ModelError(f"{name} cannot be loaded: {entry['reason']}")
                    status.update(f"loading {name}: {entry['reason']}")
                time.sleep(POLL_S)
        raise ModelError(f"{name} is not loaded after {LOAD_DEADLINE_S / 3600:g} hours")

    def unload(self, model: str, wait: bool) -> dict[str, Any]:
        asked = self._post("unload", model)
        ends_at = time.monotonic() + DEADLINE_S
        while wait and time.monotonic() < ends_at:
            if asked["id"] not in self.models():
                return {**asked, "state": "unloaded"}
            time.sleep(POLL_S)
        return asked

    def _post(self, what: str, model: str) -> dict[str, Any]:
        try:
            answer = httpx.post(
                f"{self._url}/v1/models/{what}",
                json={"model": model},
                headers=self._headers,
                timeout=DEADLINE_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise ConfigurationError(
                f"no gateway answers at {self._url}; start a cluster with `pomona up`, or name "
                "its port with --port"
            ) from error
        if not answer.is_success:
            raise ModelError(str(answer.json()["error"]["message"]))
        return answer.json()
