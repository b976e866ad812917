"""``pomona help``: explains the words that other commands print."""

from __future__ import annotations

from textwrap import fill
from typing import Final

WIDTH: Final = 78

TOPICS: Final[dict[str, str]] = {
    "node": """A node is one machine. It runs one discovery service, which finds the other nodes,
and one stage worker, which computes. `pomona up` makes this machine a node with several stage
workers.

`pomona status` lists the nodes with their memory; `pomona doctor` checks each of them.""",
    "stage": """A stage is a contiguous range of the layers of one model, held by one stage
worker. `0..15` means layers 0 to 14: the last number is not included.

The planner chooses the ranges so that every stage takes about the same time. Fewer stages are
faster for one user; more stages hold a larger model. `pomona plan MODEL` shows the choice.""",
    "drain": """A drained node is planned without, so that it can be stopped or updated: `pomona
drain NODE`. Its layers are loaded elsewhere, and running answers go on with the next token. When
the others cannot hold the model, the command says how long answers will pause and asks first.

It stays drained until `pomona undrain NODE`, or with `--until-back` until it has been started
again. The health watcher says nothing about a drained node that is silent.""",
    "pipeline": """A pipeline is all stages of one model, in order. Activations go from the first
stage, the head, to the last, the tail. The tail samples a token and sends its id back to the head.

A pipeline is `forming` while its stages load, `active` when all are ready, and `impossible` when
the machines that are there cannot hold the model; `pomona status` gives the reason.""",
    "head": """The head is the first stage of a pipeline. It receives prompts from the gateway and
decides what every step computes: which requests run together, and in which order.""",
    "tail": """The tail is the last stage of a pipeline. It samples the tokens, and sends them to
the gateway and to the head.""",
    "epoch": """An epoch is the version of a pipeline's plan. It only rises.

When a stage dies, joins or moves, the planner issues the next epoch. Messages of older epochs are
refused, so nothing stale reaches an answer. Running requests are sent again in the new epoch with
the tokens that were already written: a client's stream pauses, and goes on.""",
    "lane": """A lane is a batch of requests that travels the pipeline as one unit (an in-flight
micro-batch). With two stages, two lanes keep both busy: while lane 1 is in stage 2, lane 2 is in
stage 1. This is why two users are served in nearly the time of one.""",
    "beacon": """A beacon is the message in which a service states its full state, once a second
and at every change. `pomona status` shows what the beacons say.

A service without a beacon for 3 s counts as lost. Nothing is repaired by hand: the planner plans
without it, and `pomona up` restarts it.""",
    "link": """A link is one connection that carries activations or tokens from one stage to the
next. `pomona status` shows the measured round trip and rate of the links between nodes.""",
    "alert": """An alert is raised by the health watcher, once, when something is wrong, and
resolved, once, when the cluster serves again. A warning needs nobody now; critical means that
requests fail or wait.

`pomona alerts preview` prints the text of every kind of alert. The health watcher posts them to
Slack when POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL is set.""",
}
"""Explanations by topic. A blank line separates paragraphs."""


def explain(topic: str) -> str:
    """Returns the explanation of a topic, wrapped for a terminal of 80 columns."""
    paragraphs = (" ".join(x.split()) for x in TOPICS[topic].split("\n\n"))
    wrapped = (
        fill(x, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        for x in paragraphs
    )
    return topic.upper() + "\n" + "\n\n".join(wrapped)


def topic_list() -> str:
    """Returns a line for each topic: its name and its first sentence."""
    width = max(map(len, TOPICS))
    lines: list[str] = []
    for name, text in TOPICS.items():
        first = " ".join(text.split()).partition(". ")[0].rstrip(".")
        indent = " " * (width + 4)
        lines.append(fill(f"  {name:<{width}}  {first}.", WIDTH, subsequent_indent=indent))
    return "\n".join(lines)
