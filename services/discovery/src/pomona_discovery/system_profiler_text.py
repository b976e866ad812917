"""Parses the text that ``system_profiler SPThunderboltDataType`` prints without ``-json``.

A heading followed by an empty line begins a bus or a device; a device below another is indented
further. Other headings begin a section; only ports matter.
"""

from __future__ import annotations

import re
from typing import Any

_KEYS = {
    "Vendor Name": "vendor_name_key",
    "Device Name": "device_name_key",
    "Domain UUID": "domain_uuid_key",
    "Mode": "mode_key",
    "Status": "receptacle_status_key",
    "Speed": "current_speed_key",
    "Receptacle": "receptacle_id_key",
    "Link Status": "link_status_key",
}
_LINE = re.compile(r"^(?P<indent> *)(?P<name>[^:]+):(?: (?P<value>.*))?$")


def parse_text(text: str) -> list[dict[str, Any]]:
    """Returns the buses, in the form that ``-json`` has."""
    lines = text.expandtabs().splitlines()
    buses: list[dict[str, Any]] = []
    items: list[tuple[int, dict[str, Any]]] = []
    section: tuple[int, dict[str, Any]] | None = None
    for number, line in enumerate(lines):
        match = _LINE.match(line.rstrip())
        if match is None:
            continue
        indent, name, value = len(match["indent"]), match["name"].strip(), match["value"]
        if section is not None and indent <= section[0]:
            section = None
        is_item = not value and number + 1 < len(lines) and not lines[number + 1].strip()
        if is_item and indent:
            while items and items[-1][0] >= indent:
                items.pop()
            item: dict[str, Any] = {"_name": name}
            (items[-1][1].setdefault("_items", []) if items else buses).append(item)
            items.append((indent, item))
            section = None
        elif not value and items and section is None:
            content: dict[str, Any] = {}
            section = (indent, content)
            _add_section(items[-1][1], name, content)
        elif value and items:
            key = _KEYS.get(name, name)
            (section[1] if section else items[-1][1]).setdefault(key, value.strip())
    return buses


def _add_section(item: dict[str, Any], name: str, content: dict[str, Any]) -> None:
    if name.startswith("Port"):
        number = 1 + sum(key.startswith("receptacle") for key in item)
        item[f"receptacle_{number}_tag"] = content
    elif name == "Services":
        item["services_title"] = content
