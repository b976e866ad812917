"""Effect of an alert on users, and the action for its reader. Pure.

A notification is read on a watch at night. It therefore says, beside what happened, what users
notice and one thing to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pomona.messages.control import Alert


@dataclass(frozen=True, slots=True)
class Advice:
    """Attributes:
    effect: what users notice, and what cannot happen until it is over.
    action: one thing to do.
    """

    effect: str
    action: str


_LOGS: Final = "If it is not back within a minute, run `pomona logs {service} --since 10m`."

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
}
_RESTARTED: Final[dict[str, Advice]] = {
    "gateway": Advice(
        "Streams were cut; answers can be had again by their id. New requests are served.",
        "Nothing to do now; `pomona logs gateway --since 10m` gives the cause.",
    ),
    "planner": Advice(
        "Answers went on.",
        "Nothing to do now; `pomona logs planner --since 10m` gives the cause.",
    ),
    "discovery": Advice(
        "Answers went on.",
        "Nothing to do now; `pomona logs discovery --since 10m` gives the cause.",
    ),
    "stage_worker": Advice(
        "Answers of its models paused and go on.",
        "Nothing to do now; `pomona logs stage_worker --since 10m` gives the cause.",
    ),
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
    "stalled": Advice(
        "Answers in this stage wait. A worker whose thread hangs is ended and started again, and "
        "the answers go on.",
        "Wait a minute. If it happens again, run `pomona logs stage_worker --since 10m`.",
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
}
_UNKNOWN: Final = Advice("The effect is unknown.", "Run `pomona status`.")


def advice_of(alert: Alert) -> Advice:
    """Returns the advice for an alert, by its key and severity."""
    kind, _, subject = alert.key.partition("/")
    if kind != "service_lost":
        return _BY_KIND.get(kind, _UNKNOWN)
    table = _RESTARTED if alert.severity == "warning" else _LOST
    for service, advice in table.items():
        if f".{service}" in subject:
            return Advice(advice.effect, advice.action.format(service=service))
    return _UNKNOWN
