"""A member whose disk has other weights than the plan's: what it sends is refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models import llama

from pomona.errors import ModelError
from pomona.models import pinned_source, read_facts, resolve, sources
from pomona.models.store import digest_files, sparse_copy
from pomona.models.store.checked_source import CheckedSource, PlanDigests
from pomona.models.store.digest_files import compute_table
from pomona.models.store.peer_source import PeerSource
from pomona.models.store.sparse_copy import SparseCopy
from pomona.models.store.weight_digests import FileDigests, decode_table, split_by_segments
from pomona_stage_worker.loading import read_weights
from pomona_stage_worker.loading.file_server import FileServer
from support.doubles.hub import FakeHub, fake_hub
from support.models.folders import CONFIG, tensors_of, write_folder

LAYERS = CONFIG["num_hidden_layers"]
NAME = "someone/small-model"


def ignore_progress(done: int, total: int, fetching: bool = False) -> None:
    pass


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    model = llama.Model(llama.ModelArgs.from_dict(CONFIG))
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    write_folder(folder, tensors_of(model), files=2)
    (folder / "tokenizer.json").write_text("{}")
    return folder


class Peers:
    """The planner's machine, a member with false bytes, and what the latter was caught at."""

    def __init__(self, source: str, head: FileServer, liar: FileServer, digest: str) -> None:
        self.caught: list[tuple[str, str]] = []
        peers = [PeerSource("liar", liar.endpoint), PeerSource("head", head.endpoint)]
        digests = PlanDigests(source, digest, peers)
        self.sources = [
            CheckedSource(peer, digests, peer.name == "head", self._caught) for peer in peers
        ]

    def _caught(self, peer: str, file: str) -> None:
        self.caught.append((peer, file))


@pytest.fixture
def closing() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def may_open_nothing(path: Path) -> bool:
    """Makes a path that exists here one of another machine."""
    return False


def on_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Continues as a machine with its copies in this folder."""
    monkeypatch.setenv("POMONA_MODELS_DIR", str(folder))


def serve(
    closing: ExitStack, source: str, planned: bool, copy: SparseCopy | None = None
) -> FileServer:
    server = FileServer("127.0.0.1", lambda: {source} if planned else set(), lambda source: copy)
    closing.callback(server.close)
    return server


def whole_copy(source: str, peer: PeerSource) -> SparseCopy:
    """Fetches everything, as a member that has held all layers."""
    copy = SparseCopy.create(source, [peer])
    for file in copy.weight_files():
        for begin, end in copy.missing_in_file(file):
            copy.fetch(file, begin, end, [peer])
    return copy


def falsify(copy: SparseCopy) -> None:
    for file in copy.weight_files():
        (begin, end), *_ = copy.held_ranges(file)
        with (copy.folder / file).open("r+b") as opened:
            opened.seek(begin + (end - begin) // 2)
            opened.write(b"\xff" * 64)


def holds_the_original(original: Path, source: str, peers: Peers) -> bool:
    fetched = read_weights(source, 2, 5, ignore_progress, peers=peers.sources).arrays
    own = read_weights(str(original), 2, 5, ignore_progress).arrays
    return fetched.keys() == own.keys() and all(
        bool(mx.array_equal(fetched[name], own[name])) for name in own
    )


@pytest.fixture
def lying(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closing: ExitStack
) -> tuple[FileServer, FileServer, str]:
    """Servers of the planner's machine and of a liar, and the plan's digest of the folder."""
    source = str(original)
    on_machine(monkeypatch, tmp_path / "head")
    head = serve(closing, source, planned=True)
    digest = compute_table(source).digest()
    on_machine(monkeypatch, tmp_path / "liar")
    copy = whole_copy(source, PeerSource("head", head.endpoint))
    falsify(copy)
    liar = serve(closing, source, planned=False, copy=copy)
    on_machine(monkeypatch, tmp_path / "head")
    monkeypatch.setattr(sources, "_may_open", [may_open_nothing])
    return head, liar, digest


def test_false_weight_bytes_of_a_member_are_refused_and_read_elsewhere(
    original: Path,
    lying: tuple[FileServer, FileServer, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = str(original)
    peers = Peers(source, *lying)
    assert peers.sources[0].digests.table() is not None
    on_machine(monkeypatch, tmp_path / "reader")
    with caplog.at_level(logging.ERROR, "pomona"):
        assert holds_the_original(original, source, peers)
    assert {name for name, _ in peers.caught} == {"liar"}
    assert "liar sent other bytes of model-0000" in caplog.text
    manifest = peers.sources[1].manifest(source)
    with pytest.raises(ModelError, match="has sent other bytes"):
        peers.sources[0].read(manifest, "config.json", 0, 1)


def test_before_the_digest_is_known_only_the_planners_machine_is_asked(
    original: Path,
    lying: tuple[FileServer, FileServer, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, liar, _ = lying
    peers = Peers(str(original), head, liar, "")
    on_machine(monkeypatch, tmp_path / "reader")
    assert holds_the_original(original, str(original), peers)
    assert not peers.caught


def test_a_table_with_another_digest_than_the_plans_is_not_used(
    original: Path, lying: tuple[FileServer, FileServer, str]
) -> None:
    head, liar, digest = lying
    other = digest[::-1]
    assert Peers(str(original), head, liar, other).sources[0].digests.table() is None
    with pytest.raises(ModelError, match="not the one of the plan"):
        decode_table(b"{}", digest)


def test_false_configuration_is_refused_too(
    original: Path,
    lying: tuple[FileServer, FileServer, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = str(original)
    on_machine(monkeypatch, tmp_path / "liar")
    copy = SparseCopy.find(source)
    assert copy is not None
    config = copy.folder / "config.json"
    config.write_bytes(config.read_bytes().replace(b"10000.0", b"20000.0"))
    on_machine(monkeypatch, tmp_path / "head")
    peers = Peers(source, *lying)
    assert peers.sources[0].digests.table() is not None
    on_machine(monkeypatch, tmp_path / "reader")
    found = SparseCopy.create(source, peers.sources)
    assert (found.folder / "config.json").read_bytes() == (original / "config.json").read_bytes()
    assert peers.caught == [("liar", "config.json")]


@pytest.fixture
def hub(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    with fake_hub({NAME: original}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield served


def test_hub_bytes_that_the_planner_cannot_check_come_from_a_member_last(
    hub: FakeHub,
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    closing: ExitStack,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The planner's machine holds layers 0 to 2 only; a false member has all."""
    on_machine(monkeypatch, tmp_path / "head")
    read_weights(NAME, 0, 3, ignore_progress)
    source = pinned_source(NAME)
    head = serve(closing, source, planned=True, copy=SparseCopy.find(source))
    digest = compute_table(source).digest()
    on_machine(monkeypatch, tmp_path / "liar")
    read_weights(source, 0, LAYERS, ignore_progress)
    copy = SparseCopy.find(source)
    assert copy is not None
    honest = serve(closing, source, planned=True, copy=copy)
    on_machine(monkeypatch, tmp_path / "head")
    peers = Peers(source, head, honest, digest)
    assert peers.sources[0].digests.table() is not None
    on_machine(monkeypatch, tmp_path / "first reader")
    before = hub.weight_bytes()
    assert holds_the_original(original, source, peers)
    facts = read_facts(str(original))
    assert hub.weight_bytes() - before == sum(x.stored_bytes for x in facts.layers[3:5])
    on_machine(monkeypatch, tmp_path / "second reader")
    resolve(source, peers.sources)
    hub.fail_after = 0
    with caplog.at_level(logging.WARNING, "pomona"):
        assert holds_the_original(original, source, peers)
    assert "come from liar unchecked" in caplog.text
    falsify(copy)
    on_machine(monkeypatch, tmp_path / "third reader")
    hub.fail_after = None
    assert holds_the_original(original, source, peers)


def test_digests_are_computed_once_for_a_file_and_follow_its_changes(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, tmp_path / "head")
    folder = tmp_path / "model"
    shutil.copytree(original, folder)
    read: list[str] = []
    compute = digest_files._digests  # type: ignore[reportPrivateUsage]

    def counted(path: Path, *rest: Any) -> Any:
        read.append(path.name)
        return compute(path, *rest)

    monkeypatch.setattr(digest_files, "_digests", counted)
    first = compute_table(str(folder))
    assert set(read) == set(first.files)
    weights = [FileDigests.covers(x, 0, x.size) for x in first.files.values()]
    assert all(weights), "safetensors has no gaps"
    read.clear()
    assert compute_table(str(folder)).digest() == first.digest()
    assert not read
    (folder / "tokenizer.json").write_text('{"a": 1}')
    assert compute_table(str(folder)).digest() != first.digest()
    assert read == ["tokenizer.json"]


SEGMENT = "0" * 64
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)
RANGES = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 60)).map(lambda x: (x[0], x[0] + x[1])),
    max_size=5,
)


@given(
    sizes=SIZES,
    gaps=st.lists(st.integers(0, 9), min_size=12),
    ranges=RANGES,
    most=st.integers(1, 99),
)
def test_pieces_are_whole_segments_and_cover_what_is_missing(
    sizes: list[int], gaps: list[int], ranges: list[tuple[int, int]], most: int
) -> None:
    segments: list[tuple[int, int, str]] = []
    at = 0
    for size, gap in zip(sizes, gaps, strict=False):
        segments.append((at + gap, at + gap + size, SEGMENT))
        at += gap + size
    file = FileDigests(at, tuple(segments))
    missing = sparse_copy._merge(ranges)  # type: ignore[reportPrivateUsage]
    edges = {segments[len(segments) // 2][0]}
    pieces, rest = split_by_segments(file, missing, edges, most)
    begins, ends = {x[0] for x in segments}, {x[1] for x in segments}
    assert all(a in begins and b in ends and file.covers(a, b) for a, b in pieces)
    assert all(b - a <= most or not (begins & set(range(a + 1, b))) for a, b in pieces)
    assert not any(a < edge < b for a, b in pieces for edge in edges)
    taken = [n for a, b in pieces for n in range(a, b)]
    left = [n for a, b in rest for n in range(a, b)]
    assert len(taken) == len(set(taken)), "nothing is fetched twice"
    wanted = {n for a, b in missing for n in range(a, b)}
    assert wanted <= set(taken) | set(left)
    assert set(left) <= wanted
