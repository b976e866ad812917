"""Effect of an alert on users, and the action for its reader. Pure.

A notification is read on a watch at night. It therefore says, beside what happened, what users
notice and one thing to do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pomona.messages.control import Alert


@dataclass(frozen=True, slots=True)
class Advice:
    """Attributes:
    effect: what users notice, and what cannot happen until it is over; empty when the alert
        itself says it.
    action: one thing to do.
    """

    effect: str
    action: str


_LOGS: Final = "If it is not back in a minute, run `pomona logs {service} --since 10m`."
_CAUSE: Final = "Nothing to do now. `pomona logs {service} --since 10m` shows what came before."

_LOST: Final[dict[str, Advice]] = {
    "gateway": Advice(
        "New requests are refused until it is back; answers that ran can be had again by their id.",
        _LOGS,
    ),
    "planner": Advice(
        "Answers go on. Until it is back, no model is loaded and no lost stage is replaced.",
        _LOGS,
    ),
    "discovery": Advice(
        "Answers go on. Until it is back, faults on this node go unnoticed and no node can join.",
        _LOGS,
    ),
    "stage_worker": Advice(
        "Answers of its models pause, and go on when it is back or other nodes hold its layers.",
        _LOGS,
    ),
    "health_watcher": Advice(
        "Answers go on. Until it is back, faults are not reported.",
        _LOGS,
    ),
}
_RESTARTED: Final[dict[str, Advice]] = {
    "gateway": Advice(
        "Streams were cut; their answers can be had again by id. New requests are served.", _CAUSE
    ),
    "planner": Advice("Answers went on.", _CAUSE),
    "discovery": Advice("Answers went on.", _CAUSE),
    # The alert counts the answers that paused.
    "stage_worker": Advice("", _CAUSE),
    "health_watcher": Advice(
        "Answers went on; faults in that time were not reported.",
        "Run `pomona status`; `pomona logs health_watcher --since 10m` gives the cause.",
    ),
}
_BY_KIND: Final[dict[str, Advice]] = {
    "node_lost": Advice(
        "Answers of models with layers there pause, and go on when it is back or others hold them.",
        "Check its power and network cable; `pomona status` shows what still serves.",
    ),
    "node_restarted": Advice(
        "Streams were cut; their answers can be had again by id.",
        "If this was not on purpose, check its power; `pomona status` shows what serves.",
    ),
    "stalled": Advice(
        "Answers in this stage wait. A worker whose thread hangs is ended and started again, and "
        "the answers go on.",
        "Wait a minute. If it happens again, run `pomona logs stage_worker --since 10m`.",
    ),
    "set_aside": Advice(
        "Its models run on other nodes if those can hold them; else it is used all the same.",
        "Run `pomona logs stage_worker --since 1h` there, and check that Mac's memory and disk.",
    ),
    "panic": Advice(
        "Requests for their models fail unless other nodes can hold them.",
        "Lower POMONA_STAGE_WORKER_MEMORY_BYTES there and restart the worker; `pomona doctor` "
        "checks the limits.",
    ),
    "false_weights": Advice(
        "Answers go on: the bytes were refused and read from another source.",
        "Run `pomona models pull` on the head, or revoke that machine (`pomona revoke NODE`) if "
        "you do not trust it; else check its disk.",
    ),
    "memory": Advice(
        "Answers go on; new requests may wait for memory.",
        "Unload a model (`pomona models unload NAME`), or add a node.",
    ),
    "stage_failed": Advice(
        "Requests for this model are refused until it is loaded.",
        "Correct the reason above, then run `pomona models load NAME`.",
    ),
    "service_failed": Advice(
        "What it holds is not served.",
        "Run `pomona logs --since 10m --level error` on its node for the reason.",
    ),
    "pipeline": Advice(
        "Requests for this model get 503 until it fits; other models go on.",
        "Bring back or add a node; `pomona plan MODEL` shows what the model needs.",
    ),
    "version_skew": Advice(
        "Answers go on, but a mix of versions is not tested.",
        "Install the same version on every node (`pomona service install`).",
    ),
    "macos_skew": Advice(
        "Answers go on; speed and memory limits may differ between the nodes.",
        "Update the others one at a time: `pomona drain NODE --until-back`, then update macOS.",
    ),
    "disk": Advice(
        "Answers go on; models and logs may soon not be written.",
        "Delete files there; `pomona models list` shows the models on a machine.",
    ),
    "local_network": Advice(
        "The two nodes do not share a model until it is allowed.",
        "On that Mac open System Settings, Privacy & Security, Local Network, and allow the "
        "program that started Pomona: Terminal, iTerm, or the terminal in which tmux was started; "
        "then start that program again. `pomona doctor` says more.",
    ),
}
_LOOP: Final = re.compile(r" died \d+ times ")
_LOOP_ACTION: Final = (
    "Run `pomona logs {service} --since 10m` for the cause; a service that goes on dying needs you."
)
_UNKNOWN: Final = Advice("The effect is unknown.", "Run `pomona status`.")


def advice_of(alert: Alert) -> Advice:
    """Returns the advice for an alert, by its key and severity."""
    kind, _, subject = alert.key.partition("/")
    if kind != "service_lost":
        return _BY_KIND.get(kind, _UNKNOWN)
    table = _RESTARTED if alert.severity == "warning" else _LOST
    for service, advice in table.items():
        if f".{service}" in subject:
            action = _LOOP_ACTION if _LOOP.search(alert.summary) else advice.action
            return Advice(advice.effect, action.format(service=service))
    return _UNKNOWN
