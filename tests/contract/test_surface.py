"""No recorded setting, metric, command, HTTP or wire field disappears."""

from __future__ import annotations

from pathlib import Path

from support.surface import surface

RECORDED = Path(__file__).parent / "surface.txt"


def test_no_recorded_setting_metric_command_or_field_is_missing() -> None:
    """Run ``python -m support.surface > contract/surface.txt`` in ``tests`` after a change."""
    recorded = RECORDED.read_text().splitlines()
    missing = sorted(set(recorded) - set(surface()))
    assert not missing, "\n".join(missing)
