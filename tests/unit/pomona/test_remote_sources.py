"""Answers of peers and of the hub hold to limits, whatever these send."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest

from pomona.errors import ModelError
from pomona.models.store import hub_source, peer_source
from pomona.models.store.peer_source import MAX_LIST_BYTES, PeerSource
from pomona.models.store.remote_source import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_PATH,
    MAX_SMALL_BYTES,
    Manifest,
    RemoteFile,
    check_manifest,
)
from pomona.transport import Replier

MANIFEST = Manifest("m", "1", {"a.safetensors": RemoteFile(100)})


@pytest.fixture
def answers() -> dict[str, Any]:
    """Bodies by path: bytes, or a number of chunks to send slowly."""
    return {}


@pytest.fixture
def peer(answers: dict[str, Any]) -> Generator[PeerSource]:
    stopped = threading.Event()

    def handle(request: Sequence[bytes], node: str) -> Iterator[list[bytes]]:
        body = answers[request[0].decode().partition("?")[0]]
        if isinstance(body, bytes):
            yield [str(len(body)).encode(), hashlib.sha256(body).hexdigest().encode()]
            yield [body]
            return
        yield [b"1000000", b""]
        while not stopped.wait(0.01):
            yield [b"x"]

    replier = Replier("127.0.0.1", 0, "TEST", handle)
    yield PeerSource("peer", replier.endpoint)
    stopped.set()
    replier.close()


def test_a_peers_answer_has_a_length(peer: PeerSource, answers: dict[str, Any]) -> None:
    answers["/manifest"] = b" " * (MAX_LIST_BYTES + 1)
    with pytest.raises(ModelError, match="more than"):
        peer.manifest("m")
    answers["/bytes"] = b"x" * 101
    with pytest.raises(ModelError, match="more than 100 bytes"):
        peer.read(MANIFEST, "a.safetensors", 0, 100)
    answers["/held"] = b"[[0,100]]"
    assert peer.held_ranges(MANIFEST, "a.safetensors") == ((0, 100),)
    answers["/held"] = b"[[0,101]]"
    assert peer.held_ranges(MANIFEST, "a.safetensors") == ()


def test_a_peers_answer_has_a_deadline(
    peer: PeerSource, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_source, "TRANSFER_DEADLINE_S", 0.1)
    answers["/manifest"] = None
    with pytest.raises(ModelError, match="takes longer"):
        peer.manifest("m")


@pytest.mark.parametrize(
    "files",
    [
        {f"{n}.json": RemoteFile(1) for n in range(MAX_FILES + 1)},
        {"a" * (MAX_PATH + 1): RemoteFile(1)},
        {"a.safetensors": RemoteFile(MAX_FILE_BYTES + 1)},
        {"a.safetensors": RemoteFile(-1)},
        {f"{n}.json": RemoteFile(MAX_SMALL_BYTES // 10) for n in range(11)},
    ],
    ids=["files", "path", "size", "negative", "small files"],
)
def test_a_manifest_holds_to_its_limits(
    peer: PeerSource, answers: dict[str, Any], files: dict[str, RemoteFile]
) -> None:
    plain = {name: {"size": file.size} for name, file in files.items()}
    body = {"source": "m", "version": "1", "files": plain}
    answers["/manifest"] = json.dumps(body).encode()
    with pytest.raises(ModelError):
        peer.manifest("m")
    with pytest.raises(ModelError):
        check_manifest(Manifest("m", "1", files))


def test_only_the_range_is_kept_of_what_the_hub_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def parts() -> Generator[bytes]:
        for n in range(1000):
            taken.append(n)
            yield b"%03d" % n

    assert hub_source._read(parts(), 4, 7) == b"0100200"  # type: ignore[reportPrivateUsage]
    assert len(taken) == 4
    monkeypatch.setattr(hub_source, "TRANSFER_DEADLINE_S", -1.0)
    with pytest.raises(ModelError, match="within"):
        hub_source._read(parts(), 0, 700)  # type: ignore[reportPrivateUsage]
