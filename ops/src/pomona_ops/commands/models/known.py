"""Lists models: in the cluster, on this machine, and published ones known by name."""

from __future__ import annotations

from typing import Any

from pomona.errors import ModelError
from pomona.models import EMBEDDED_MODEL, resolve
from pomona.models.published import published_names
from pomona.models.store.sparse_copy import local_copies
from pomona_ops.commands.models.gateway import GatewayClient


def known_models(client: GatewayClient) -> list[dict[str, Any]]:
    """Returns an entry with ``name``, ``where`` and ``state`` for each model."""
    found: list[dict[str, Any]] = []
    for name, entry in client.models().items():
        state = "ready" if entry["ready"] else f"{entry['state']}: {entry['reason']}"
        found.append({"name": name, "where": "cluster", "state": state})
    for copy in local_copies():
        held, total = copy.held_bytes()
        share = f"{100 * held // total}% of its weights" if total else "no weights"
        found.append({"name": copy.manifest.source, "where": "this machine", "state": share})
    try:
        resolve(EMBEDDED_MODEL)
        found.append({"name": EMBEDDED_MODEL, "where": "this machine", "state": "embedded"})
    except ModelError:
        pass
    for name in published_names():
        found.append({"name": name, "where": "data", "state": "can be planned for"})
    return found
