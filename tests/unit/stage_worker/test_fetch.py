"""Tests fetching a stage's byte ranges from peers and the hub."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models import llama

from pomona.errors import ModelError
from pomona.models import read_facts, resolve
from pomona.models.store import sparse_copy
from pomona.models.store.peer_source import MAX_LIST_BYTES, PeerSource
from pomona.models.store.remote_source import Manifest, Range, RemoteSource
from pomona.models.store.sparse_copy import SparseCopy
from pomona.transport import Requester
from pomona_stage_worker.loading import read_weights
from pomona_stage_worker.loading.file_server import FileServer
from support.doubles.hub import FakeHub, fake_hub
from support.models.folders import CONFIG, tensors_of, write_folder

NAME = "someone/small-model"
LAYERS = CONFIG["num_hidden_layers"]


def ignore_progress(done: int, total: int, fetching: bool = False) -> None:
    pass


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the published model: three files, split in the middle of layers."""
    folder = tmp_path_factory.mktemp("original")
    model = llama.Model(llama.ModelArgs.from_dict(CONFIG))
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    write_folder(folder, tensors_of(model), files=3)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"never" * 1000)
    (folder / "modeling.py").write_text("never")
    return folder


@pytest.fixture
def hub(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    with fake_hub({NAME: original}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
        monkeypatch.setattr(sparse_copy, "CHUNK_BYTES", 1 << 16)
        yield served


def stored_bytes(original: Path, start: int, stop: int) -> int:
    """Returns the stored bytes of a stage's tensors."""
    facts = read_facts(str(original))
    inner = sum(layer.stored_bytes for layer in facts.layers[start:stop])
    head = facts.embedding.stored_bytes if start == 0 else 0
    return inner + head + (facts.head.stored_bytes if stop == LAYERS else 0)


def same(source: str, original: Path, start: int, stop: int, peers: list[RemoteSource]) -> bool:
    fetched = read_weights(source, start, stop, ignore_progress, peers=peers).arrays
    own = read_weights(str(original), start, stop, ignore_progress).arrays
    return fetched.keys() == own.keys() and all(
        bool(mx.array_equal(fetched[name], own[name])) for name in own
    )


def test_reading_facts_of_a_hub_model_fetches_no_weights(hub: FakeHub, original: Path) -> None:
    facts, own = read_facts(NAME), read_facts(str(original))
    assert facts.name == NAME
    assert facts.layers == own.layers
    headers = sum(min(1 << 16, x.stat().st_size) for x in original.glob("*.safetensors"))
    assert hub.weight_bytes() <= headers
    assert "pytorch_model.bin" not in hub.served
    assert "modeling.py" not in hub.served


def test_a_stage_fetches_only_its_own_tensors(hub: FakeHub, original: Path) -> None:
    resolve(NAME)
    before = hub.weight_bytes()
    assert same(NAME, original, 2, 5, [])
    assert hub.weight_bytes() - before == stored_bytes(original, 2, 5)
    again = hub.weight_bytes()
    assert same(NAME, original, 2, 5, [])
    assert hub.weight_bytes() == again
    folder = resolve(NAME)
    on_disk = sum(x.stat().st_blocks * 512 for x in folder.glob("*.safetensors"))
    assert on_disk <= stored_bytes(original, 2, 5) + 64 * 4096


def test_an_interrupted_fetch_resumes(hub: FakeHub, original: Path) -> None:
    resolve(NAME)
    before = hub.weight_bytes()
    hub.fail_after = before + stored_bytes(original, 0, LAYERS) // 2
    with pytest.raises(ModelError, match=r"model-0000.-of-00003\.safetensors: bytes .* the hub"):
        read_weights(NAME, 0, LAYERS, ignore_progress)
    hub.fail_after = None
    assert same(NAME, original, 0, LAYERS, [])
    assert hub.weight_bytes() - before == stored_bytes(original, 0, LAYERS)


def test_the_hub_token_is_sent_to_the_hub_and_appears_in_no_message(
    hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.token = "hf_secret"
    with caplog.at_level(logging.DEBUG, "pomona"):
        resolve(NAME)
    assert hub.tokens == {"Bearer hf_secret"}
    hub.token = "another"
    with pytest.raises(ModelError, match="set HF_TOKEN") as raised:
        resolve("someone/other-model")
    assert "hf_secret" not in caplog.text + str(raised.value)


def test_the_error_names_an_unreachable_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="is not on the hub"):
        resolve("someone/no-such-model")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve(NAME)


@pytest.fixture
def peer(original: Path) -> Generator[PeerSource]:
    server = FileServer("127.0.0.1", lambda: {str(original)})
    try:
        yield PeerSource("other.stage_worker", server.endpoint)
    finally:
        server.close()


def test_a_peers_folder_is_fetched_by_the_path_in_the_plan(
    peer: PeerSource, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
    manifest = peer.manifest(str(original))
    assert "pytorch_model.bin" not in manifest.files
    # Here the path exists; on another machine it does not.
    copy = SparseCopy.create(str(original), [peer])
    places = read_facts(str(original))
    assert read_facts(str(copy.folder)).layers == places.layers


class CountingSource:
    """Counts the bytes read from a source."""

    def __init__(self, source_: RemoteSource) -> None:
        self.name = source_.name
        self._source_ = source_
        self.read_bytes = 0

    def manifest(self, source: str) -> Manifest:
        return self._source_.manifest(source)

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        return self._source_.held_ranges(manifest, file)

    def header_bytes(self, manifest: Manifest, file: str) -> int:
        return self._source_.header_bytes(manifest, file)

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        content = self._source_.read(manifest, file, begin, end)
        self.read_bytes += len(content)
        return content


def test_ranges_come_from_peers_first_and_then_from_the_hub(
    hub: FakeHub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_weights(NAME, 0, 4, ignore_progress)
    first = SparseCopy.find(NAME)
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "another machine"))
    server = FileServer("127.0.0.1", lambda: {NAME}, lambda source: first)
    try:
        source_ = CountingSource(PeerSource("first", server.endpoint))
        resolve(NAME, [source_])
        from_peer, from_hub = source_.read_bytes, hub.weight_bytes()
        assert same(NAME, original, 2, 6, [source_])
        assert source_.read_bytes - from_peer == stored_bytes(original, 2, 4)
        assert hub.weight_bytes() - from_hub == stored_bytes(original, 4, 6)
    finally:
        server.close()


class DamagingPeer(PeerSource):
    """A peer whose responses are damaged in transit."""

    def _get(self, path: str, most: int = MAX_LIST_BYTES) -> tuple[bytes, str]:
        content, digest = super()._get(path, most)
        return (b"\0" + content[1:], digest) if path.startswith("/bytes") else (content, digest)


def test_a_range_with_a_wrong_hash_is_refused(
    peer: PeerSource, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
    with pytest.raises(ModelError, match="does not have the hash"):
        SparseCopy.create(str(original), [DamagingPeer("damaging", peer._endpoint)])  # type: ignore[reportPrivateUsage]
    assert SparseCopy.create(str(original), [DamagingPeer("damaging", peer._endpoint), peer])  # type: ignore[reportPrivateUsage]


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/etc/passwd",
        "/manifest?source=/etc",
        "/manifest?source=../..",
        "/manifest",
        "/bytes?source=/etc&version=x&file=passwd&begin=0&end=10",
        "/bytes?source={source}&version={version}&file=../secret.json&begin=0&end=10",
        "/bytes?source={source}&version={version}&file=/etc/passwd&begin=0&end=10",
        "/bytes?source={source}&version={version}&file=link.json&begin=0&end=4",
        "/bytes?source={source}&version={version}&file=modeling.py&begin=0&end=4",
        "/bytes?source={source}&version={version}&file=config.json&begin=-4&end=4",
        "/bytes?source={source}&version={version}&file=config.json&begin=0&end=999999999",
        "/bytes?source={source}&version={version}&file=config.json&begin=a&end=b",
        "/bytes?source={source}&version=other&file=config.json&begin=0&end=4",
        "/bytes?source={source}/../x&version={version}&file=config.json&begin=0&end=4",
    ],
)
def test_the_file_server_serves_only_model_files(
    target: str, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
    (original / "link.json").unlink(missing_ok=True)
    (original.parent / "secret.json").write_text("secret")
    (original / "link.json").symlink_to(original.parent / "secret.json")
    server = FileServer("127.0.0.1", lambda: {str(original)})
    try:
        version = PeerSource("p", server.endpoint).manifest(str(original)).version
        path = target.format(source=quote(str(original), safe=""), version=version)
        requester = Requester(server.endpoint)
        requester.send(path.encode(), timeout_s=5.0)
        assert requester.receive(5.0) == [b""]
        requester.close()
    finally:
        server.close()
        (original / "link.json").unlink()


RANGES = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 60)).map(lambda x: (x[0], x[0] + x[1])),
    max_size=12,
)


@given(needed=RANGES, held=RANGES)
def test_missing_ranges_are_needed_ranges_minus_held_ranges(
    needed: list[tuple[int, int]], held: list[tuple[int, int]]
) -> None:
    merged = sparse_copy._merge(held)  # type: ignore[reportPrivateUsage]
    assert all(a[1] < b[0] for a, b in pairwise(merged))
    left = sparse_copy._subtract(sparse_copy._merge(needed), merged)  # type: ignore[reportPrivateUsage]

    def numbers(ranges: list[tuple[int, int]]) -> list[int]:
        return [n for begin, end in ranges for n in range(begin, end)]

    assert numbers(left) == sorted(set(numbers(needed)) - set(numbers(held)))
