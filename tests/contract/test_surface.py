"""Settings, metrics, commands, HTTP and wire fields that users rely on stay."""

from __future__ import annotations

from pathlib import Path

from support.surface import surface

RECORDED = Path(__file__).parent / "surface.txt"


def test_no_recorded_setting_metric_command_or_field_is_gone() -> None:
    """``python -m support.surface > contract/surface.txt`` in ``tests`` records it again."""
    recorded = RECORDED.read_text().splitlines()
    gone = sorted(set(recorded) - set(surface()))
    assert not gone, "\n".join(gone)
