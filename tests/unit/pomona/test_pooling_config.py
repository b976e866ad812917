"""Tests reading the pooling of sentence-transformers folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pomona.errors import ModelError
from pomona.models.pooling_config import read_pooling


def modules(folder: Path, *kinds: str, pooling: dict[str, object] | None = None) -> Path:
    """Writes the files of sentence-transformers into a folder."""
    listed = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"s.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


LAST = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False,
        "pooling_mode_lasttoken": True}  # fmt: skip


@pytest.mark.parametrize(
    ("kinds", "pooling", "expected"),
    [
        (("Transformer", "Pooling", "Normalize"), LAST, ("lasttoken", True)),
        (("Transformer", "Pooling"), LAST, ("lasttoken", False)),
        (("Transformer", "Pooling"), {"pooling_mode": "lasttoken"}, ("lasttoken", False)),
        (("Transformer", "Pooling"), {"pooling_mode_mean_tokens": True}, ("mean_tokens", False)),
        (("Transformer", "Pooling"), {}, ("unknown", False)),
        (("Transformer", "Pooling"), None, ("unknown", False)),
        (("Transformer", "Pooling", "Dense"), LAST, ("unknown", False)),
        (("Transformer", "Dense"), None, ("unknown", False)),
    ],
)
def test_the_pooling_mode_and_normalisation_are_read(
    tmp_path: Path,
    kinds: tuple[str, ...],
    pooling: dict[str, object] | None,
    expected: tuple[str, bool],
) -> None:
    assert read_pooling(modules(tmp_path, *kinds, pooling=pooling)) == expected


def test_a_folder_without_modules_has_no_pooling(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == ("", False)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"path": ""}]', '["x"]'])
def test_an_unreadable_modules_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=r"modules\.json"):
        read_pooling(tmp_path)
