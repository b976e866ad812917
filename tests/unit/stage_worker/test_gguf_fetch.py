"""Tests fetching a stage's tensors of a remote GGUF file, one version on all nodes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from pomona.errors import ModelError, ModelNotFoundError, ModelUnsupportedError
from pomona.models import pinned_source, read_facts, resolve
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.store import sparse_copy
from pomona.models.store.hub_id import choose_gguf_file, parse_hub_id
from pomona.models.store.peer_source import PeerSource
from pomona.models.store.remote_source import Manifest, Range, RemoteSource
from pomona_stage_worker.loading import read_weights
from pomona_stage_worker.loading.file_server import FileServer
from support.doubles.hub import FakeHub, fake_hub
from support.models.gguf_files import LAYERS, random_model, write_gguf

NAME = "someone/small-model-GGUF"
FILE = "small-model-Q4_0.gguf"


def ignore_progress(done: int, total: int, fetching: bool = False) -> None:
    pass


def write_model(path: Path, seed: int = 1) -> Path:
    mx.random.seed(seed)
    factors = np.linspace(1.0, 2.0, 32, dtype=np.float32)
    model = random_model("llama", tie_word_embeddings=False)
    write_gguf(path, "llama", model, {}, default="Q4_0", rope_factors=factors)
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    file = write_model(folder / FILE)
    (folder / "small-model-Q8_0.gguf").write_bytes(b"never read")
    (folder / "mmproj-model-f16.gguf").write_bytes(b"never read")
    (folder / "README.md").write_text("never read")
    return file


@pytest.fixture
def hub(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    with fake_hub({NAME: original.parent}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
        monkeypatch.setattr(sparse_copy, "CHUNK_BYTES", 1 << 16)
        yield served


def stored_bytes(file: Path, start: int, stop: int) -> int:
    """Returns the bytes of a middle stage's tensors, including the RoPE frequencies."""
    mine = [f"blk.{layer}." for layer in range(start, stop)] + ["rope_freqs"]
    tensors = read_gguf_header(file).tensors
    return sum(x.stored_bytes for x in tensors if any(map(x.name.startswith, mine)))


def same(
    source: str, file: Path, start: int, stop: int, peers: Sequence[RemoteSource] = ()
) -> bool:
    fetched = read_weights(source, start, stop, ignore_progress, peers=peers).arrays
    own = read_weights(str(file), start, stop, ignore_progress).arrays
    return fetched.keys() == own.keys() and all(
        bool(mx.array_equal(fetched[name], own[name])) for name in own
    )


def test_reading_facts_fetches_only_the_header(hub: FakeHub, original: Path) -> None:
    facts, own = read_facts(f"{NAME}:Q4_0"), read_facts(str(original))
    assert facts.name == f"{NAME}:Q4_0"
    assert facts.layers == own.layers
    assert set(hub.served) == {FILE}
    assert hub.served[FILE] < original.stat().st_size // 4


def test_a_stage_fetches_only_its_own_tensors(hub: FakeHub, original: Path) -> None:
    resolve(f"{NAME}:Q4_0")
    before = hub.weight_bytes()
    assert same(f"{NAME}:Q4_0", original, 2, 4)
    assert hub.weight_bytes() - before == stored_bytes(original, 2, 4)
    again = hub.weight_bytes()
    assert same(f"{NAME}:{FILE}", original, 2, 4)
    assert same(pinned_source(f"{NAME}:q4_0"), original, 2, 4)
    assert hub.weight_bytes() - again <= 2 << 16


def test_an_interrupted_fetch_resumes(hub: FakeHub, original: Path) -> None:
    source = f"{NAME}:{FILE}"
    resolve(source)
    before = hub.weight_bytes()
    hub.fail_after = before + stored_bytes(original, 0, LAYERS) // 2
    with pytest.raises(ModelError, match=rf"{FILE}: bytes .* the hub"):
        read_weights(source, 0, LAYERS, ignore_progress)
    hub.fail_after = None
    assert same(source, original, 0, LAYERS)
    assert hub.weight_bytes() - before <= original.stat().st_size


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_the_error_for_a_full_disk_names_the_file(
    hub: FakeHub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = resolve(f"{NAME}:{FILE}")
    whole = file.read_bytes()
    file.unlink()
    file.symlink_to("/dev/full")
    copy = sparse_copy.SparseCopy.find(f"{NAME}:{FILE}")
    assert copy is not None
    with pytest.raises(ModelError, match=rf"{FILE} cannot be written: No space left"):
        copy.write(FILE, 0, whole)
    (tmp_path / "file").write_text("no folder can be made here")
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written: .* POMONA_MODELS_DIR"):
        resolve(f"{NAME}:{FILE}")


class PeerWithOtherPath:
    """A peer that has the file at another path."""

    def __init__(self, peer: PeerSource, there: Path) -> None:
        self.name = peer.name
        self.read_bytes = 0
        self._peer = peer
        self._there = str(there)

    def manifest(self, source: str) -> Manifest:
        return replace(self._peer.manifest(self._there), source=source)

    def held_ranges(self, manifest: Manifest, file: str) -> Sequence[Range]:
        return self._peer.held_ranges(replace(manifest, source=self._there), file)

    def header_bytes(self, manifest: Manifest, file: str) -> int:
        return 0

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        content = self._peer.read(replace(manifest, source=self._there), file, begin, end)
        self.read_bytes += len(content)
        return content


@pytest.fixture
def served(tmp_path: Path) -> Generator[tuple[Path, PeerWithOtherPath]]:
    """A GGUF file on another machine, and the peer that serves it."""
    (tmp_path / "there").mkdir()
    file = write_model(tmp_path / "there" / "own.gguf")
    server = FileServer("127.0.0.1", lambda: {str(file)})
    try:
        yield file, PeerWithOtherPath(PeerSource("other", server.endpoint), file)
    finally:
        server.close()


def test_a_peers_file_is_fetched_by_the_path_in_the_plan(
    served: tuple[Path, PeerWithOtherPath], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
    file, peer = served
    source = "/on/another/machine/own.gguf"
    resolve(source, [peer])
    header = peer.read_bytes
    assert same(source, file, 2, 4, [peer])
    assert peer.read_bytes - header == stored_bytes(file, 2, 4)


def test_ranges_of_two_versions_of_a_file_are_never_mixed(
    served: tuple[Path, PeerWithOtherPath], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "models"))
    file, peer = served
    source = "/on/another/machine/own.gguf"
    assert same(source, file, 0, 3, [peer])
    write_model(file, seed=2)
    assert same(source, file, 0, 3, [peer])


def test_a_peer_serves_only_the_file_in_the_plan(
    served: tuple[Path, PeerWithOtherPath],
) -> None:
    file, peer = served
    (file.parent / "beside.gguf").write_bytes(file.read_bytes())
    (file.parent / "secret.json").write_text("{}")
    manifest = peer.manifest("/x.gguf")
    assert set(manifest.files) == {file.name}
    for name in ("beside.gguf", "secret.json", "../there/own.gguf"):
        with pytest.raises(ModelNotFoundError):
            peer.read(manifest, name, 0, 2)


def test_every_node_loads_the_planned_commit_after_the_branch_moves(
    hub: FakeHub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(f"{NAME}:Q4_0")
    planned = pinned_source(f"{NAME}:Q4_0")
    moved = tmp_path / "moved"
    moved.mkdir()
    write_model(moved / FILE, seed=2)
    hub.push(NAME, moved)
    monkeypatch.setenv("POMONA_MODELS_DIR", str(tmp_path / "another node"))
    assert same(planned, original, 2, 6)
    assert pinned_source(planned) == planned
    assert same(f"{NAME}:Q4_0", moved / FILE, 2, 6)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("a/b", ("a/b", "", "")),
        ("a/b@main", ("a/b", "main", "")),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1", "")),
        ("a/b:Q4_K_M", ("a/b", "", "Q4_K_M")),
        ("a/b@v1:x/y.gguf", ("a/b", "v1", "x/y.gguf")),
        ("/a/b", None),
        ("a/b/c", None),
        ("a/b:../c.gguf", None),
        ("SmolLM2", None),
    ],
)
def test_hub_ids_are_distinguished_from_paths(
    source: str, parts: tuple[str, str, str] | None
) -> None:
    found = parse_hub_id(source)
    assert (found and (found.name, found.revision, found.file)) == parts
    assert found is None or str(found) == source


FILES = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.f16.gguf", "Q2_K/m-Q2_K-00001-of-00002.gguf",
         "Q2_K/m-Q2_K-00002-of-00002.gguf", "mmproj-f16.gguf", "config.json"]  # fmt: skip


@pytest.mark.parametrize(
    ("requested", "file"),
    [
        ("", "m-Q4_K_M.gguf"),
        ("q4_k_s", "m-Q4_K_S.gguf"),
        ("F16", "m.f16.gguf"),
        ("m-Q4_K_S.gguf", "m-Q4_K_S.gguf"),
    ],
)
def test_a_gguf_file_is_chosen_by_name_or_quantisation(requested: str, file: str) -> None:
    assert choose_gguf_file(FILES, requested) == file


@pytest.mark.parametrize(
    ("requested", "error", "message"),
    [
        ("Q3_K", ModelNotFoundError, "m-Q4_K_M.gguf, m-Q4_K_S.gguf"),
        ("other.gguf", ModelNotFoundError, "other.gguf is not there"),
        ("Q2_K", ModelUnsupportedError, "gguf-split --merge"),
    ],
)
def test_the_error_for_an_unknown_gguf_file_lists_the_files(
    requested: str, error: type[ModelError], message: str
) -> None:
    with pytest.raises(error, match=message):
        choose_gguf_file(FILES, requested)
    with pytest.raises(ModelNotFoundError, match="name one after a colon"):
        choose_gguf_file(["a-Q2_K.gguf", "b-Q3_K.gguf"], "")
