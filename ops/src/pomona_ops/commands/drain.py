"""``pomona drain`` and ``pomona undrain``: empties a node, so that it can be stopped or updated."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson

from pomona.errors import ConfigurationError, PomonaError
from pomona_ops.cluster.ports import LOOPBACK, ClusterPorts

DEADLINE_S: Final = 10.0
"""Timeout of one request to the gateway."""
DECISION_S: Final = 30.0
"""Longest wait for the planner's decision."""
POLL_S: Final = 0.2


class DrainError(PomonaError):
    """A node cannot be drained, or the planner does not answer."""


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """Attributes:
    until_back: the drain ends by itself when the node has been started again.
    yes: do not ask when the other nodes cannot hold the model.
    wait_s: seconds to wait until the node is drained; 0 only waits for the decision.
    """

    node: str
    until_back: bool = False
    yes: bool = False
    wait_s: float = 600.0
    as_json: bool = False


class DrainClient:
    """Asks the planner through the gateway of this machine.

    Args:
        port: first port of the cluster.
        key: an administrator's API key; empty sends none.
    """

    def __init__(self, port: int, key: str = "") -> None:
        self._url = f"http://{LOOPBACK}:{ClusterPorts(port).gateway}/api/pomona/v1"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def drain(self, node: str, until_back: bool = False, force: bool = False) -> dict[str, Any]:
        """Returns the planner's decision. Raises DrainError, and ConfigurationError without a
        gateway."""
        body = {"node": node, "until_back": until_back, "force": force}
        return self._decision(node, self._request("POST", "drain", body)["at"])

    def undrain(self, node: str) -> dict[str, Any]:
        """Returns the planner's decision. Raises as :meth:`drain` does."""
        return self._decision(node, self._request("POST", "undrain", {"node": node})["at"])

    def state(self, node: str) -> dict[str, Any] | None:
        """Returns the latest decision on a node; None without one."""
        drains = self._request("GET", "cluster").get("drains", ())
        return next((x for x in drains if x["node"] == node), None)

    def wait(self, node: str, within_s: float) -> dict[str, Any]:
        """Waits until a drain that was accepted is done. Raises DrainError when it is not."""
        ends_at = time.monotonic() + within_s
        found = self.state(node)
        while found is not None and found["state"] == "draining":
            if time.monotonic() > ends_at:
                raise DrainError(
                    f"{node} still holds layers after {within_s:.0f} s; `pomona status` shows "
                    f"what is loaded, and `pomona undrain {node}` takes it back"
                )
            time.sleep(POLL_S)
            found = self.state(node)
        if found is None or found["state"] != "drained":
            raise DrainError(f"the drain of {node} was ended by another request")
        return found

    def _decision(self, node: str, at: float) -> dict[str, Any]:
        ends_at = time.monotonic() + DECISION_S
        while time.monotonic() < ends_at:
            found = self.state(node)
            if found is not None and found["at"] >= at:
                return found
            time.sleep(POLL_S)
        raise DrainError(
            f"no planner decided within {DECISION_S:.0f} s; see `pomona status`, and try again"
        )

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = httpx.request(
                method,
                f"{self._url}/{path}",
                json=body,
                headers=self._headers,
                timeout=DEADLINE_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise ConfigurationError(
                f"no gateway answers at {self._url}. Run this on a machine with a gateway, or "
                "pass its port with --port"
            ) from error
        if not answer.is_success:
            raise DrainError(str(answer.json()["error"]["message"]))
        return answer.json()


def drain(client: DrainClient, options: DrainOptions) -> int:
    """Drains a node. Returns 0 when it holds no layers any more, 1 when it is not drained."""
    node = options.node
    try:
        decision = client.drain(node, options.until_back, options.yes)
        if decision["state"] == "refused" and _agrees(decision, options):
            decision = client.drain(node, options.until_back, force=True)
        if decision["state"] == "refused":
            _print(decision, options.as_json, f"{node} is not drained")
            return 1
        _say(f"{node} is draining; {_pause(decision)}", options)
        if options.wait_s:
            decision = client.wait(node, options.wait_s)
    except DrainError as error:
        print(f"pomona drain: {error}", file=sys.stderr)
        return 1
    back = (
        "it is taken back when it has been started again"
        if options.until_back
        else f"`pomona undrain {node}` takes it back"
    )
    done = "is drained and can be stopped" if decision["state"] == "drained" else "is draining"
    _print(decision, options.as_json, f"{node} {done}; {back}")
    return 0


def undrain(client: DrainClient, node: str, as_json: bool) -> int:
    """Ends a drain. Returns 0, and 1 when the planner does not answer."""
    try:
        decision = client.undrain(node)
    except DrainError as error:
        print(f"pomona undrain: {error}", file=sys.stderr)
        return 1
    text = f"{node} is planned with again; it gets layers when the model is idle, if that is better"
    _print(decision, as_json, text)
    return 0


def _agrees(decision: dict[str, Any], options: DrainOptions) -> bool:
    """Asks whether the pause is acceptable; nobody can answer without a terminal."""
    print(
        f"pomona drain: without {options.node} no answers are possible until it is back and "
        f"has loaded its layers, which takes about {decision['pause_s']:.0f} s: "
        f"{decision['reason']}",
        file=sys.stderr,
    )
    if options.as_json or not sys.stdin.isatty():
        print("pomona drain: --yes drains it all the same", file=sys.stderr)
        return False
    print(f"Drain {options.node} all the same? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _pause(decision: dict[str, Any]) -> str:
    if decision["reason"]:
        return f"answers pause until it is back and has loaded ({decision['pause_s']:.0f} s)"
    if decision["pause_s"]:
        return f"answers pause for about {decision['pause_s']:.0f} s and go on"
    return "no answer pauses, since it holds no layers"


def _say(text: str, options: DrainOptions) -> None:
    if not options.as_json:
        print(text, file=sys.stderr)


def _print(decision: dict[str, Any], as_json: bool, text: str) -> None:
    print(orjson.dumps(decision, option=orjson.OPT_INDENT_2).decode() if as_json else text)
