"""Formats quantities with their units."""

from __future__ import annotations


def in_bytes(count: int) -> str:
    """Formats a size in decimal units: ``73.2 MB``."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
