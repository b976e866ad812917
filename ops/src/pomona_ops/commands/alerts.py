"""``pomona alerts``: the texts of alerts."""

from __future__ import annotations

import sys
from textwrap import fill

import orjson

from pomona_health_watcher.preview import preview

WIDTH = 78


def print_preview(cluster: str, as_json: bool) -> None:
    """Prints the text of every kind of alert, which the rules make from simulated beacons."""
    found = preview(cluster)
    if as_json:
        entries = [{"fault": fault, "text": text} for fault, text in found]
        sys.stdout.write(orjson.dumps(entries, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for fault, text in found:
        indented = fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
        print(f"When {fault}:\n{indented}\n")
