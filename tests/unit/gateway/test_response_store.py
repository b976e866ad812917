"""Stored responses survive the gateway, and a deleted one is gone at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pomona.private_files import write_privately
from pomona_gateway.http.openai.response_store import ResponseStore

ID = "resp_" + "0" * 32


def _put(store: ResponseStore) -> None:
    store.put("t", [{"role": "user", "content": "x"}], [], {"id": ID, "status": "completed"})


def test_a_response_survives_its_gateway(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path, 1 << 20)
    _put(store)
    store.close()
    store = ResponseStore(tmp_path, 1 << 20)
    found = store.get(ID, "t")
    assert found is not None
    assert found.response["status"] == "completed"
    assert store.get(ID, "another tenant") is None
    store.close()


def test_a_deleted_response_is_gone_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResponseStore(tmp_path, 1 << 20)
    _put(store)
    store.close()
    store = ResponseStore(tmp_path, 1 << 20)
    goes_on = threading.Event()

    def write_later(*arguments: Any) -> None:
        goes_on.wait(60)
        write_privately(*arguments)

    monkeypatch.setattr(f"{ResponseStore.__module__}.write_privately", write_later)
    other = "resp_" + "1" * 32
    store.put("t", [], [], {"id": other, "status": "completed"})  # Keeps the writer busy.
    store.delete(ID, "t")
    assert (tmp_path / f"{ID}.json").exists()
    assert store.get(ID, "t") is None
    goes_on.set()
    store.close()
    assert not (tmp_path / f"{ID}.json").exists()
    assert store.get(ID, "t") is None
