"""Tests of a stage whose ranks are real child processes, connected by mlx's ring on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator

import mlx.nn as nn
import orjson
import psutil
import pytest

from pomona.messages.control import Pipeline
from pomona.messages.control import Stage as Place
from pomona.messages.sampling import Sampling
from pomona_stage_worker.engine.progress_watch import Activity, ProgressWatch
from pomona_stage_worker.groups.group_backend import GroupWeights, grouped
from pomona_stage_worker.groups.rank_children import GroupError
from pomona_stage_worker.groups.rank_group import StepDeadlines
from pomona_stage_worker.mlx_backend import mlx_backend
from pomona_stage_worker.model.mlx_stage import MlxStage, Stage
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.sharding import ShardingError
from pomona_stage_worker.slicing import slice_model
from support.doubles.pipeline import InProcessPipeline
from support.models.folders import CONFIG, tensors_of, write_folder
from support.sharding.conformance import built
from support.waiting import wait_until

LAYERS = int(CONFIG["num_hidden_layers"])
CUT = 3
DRAWN = Sampling(max_tokens=12, temperature=0.8, seed=5, top_p=0.9)
GREEDY = Sampling(max_tokens=12, temperature=0.0)
END_DEADLINE_S = 30.0
STOPPED = """
import os, signal, time
from pomona_stage_worker.groups.rank_children import RankChildren
from pomona_stage_worker.groups.rank_group import load_group
from pomona_stage_worker.groups.rank_messages import Load
children = RankChildren(2)
load_group(children, Load("m", 0, 1, hold_us=0), lambda done, total, fetching=False: None)
os.kill(children.pids[0], signal.SIGSTOP)
print(*children.pids, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    return str(write_folder(folder, tensors_of(model()), CONFIG))


@pytest.fixture(scope="module")
def group(source: str) -> Generator[GroupWeights]:
    """Two ranks that hold the layers after the cut."""
    weights = read(source, CUT, LAYERS, 2)
    yield weights
    weights.children.close()


def model() -> nn.Module:
    return built("llama", {**CONFIG, "mlp_bias": False, "attention_bias": False})


def packed_table(stage: Stage) -> bytes:
    """Returns what stages compare."""
    return orjson.dumps(stage.table(), option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)


def read(source: str, start: int, stop: int, size: int) -> GroupWeights:
    backend = grouped(mlx_backend(), size)
    weights = backend.read(source, start, stop, ignore_progress, None, ())
    assert isinstance(weights, GroupWeights)
    return weights


def ignore_progress(done: int, total: int, fetching: bool = False) -> None:
    pass


def stage_of(weights: GroupWeights) -> Stage:
    return grouped(mlx_backend(), 2).assemble(weights, plan(weights.source))


def plan(source: str) -> Pipeline:
    place = Place("a", 0, LAYERS, "tcp://127.0.0.1:9")
    return Pipeline("m", source, 1, LAYERS, "active", (place,), 512, 4096, vocab_size=256)


def tokens_of(stages: list[Stage]) -> list[list[int]]:
    limits = SchedulerLimits(len(stages), context_length=512, cache_tokens=4096, min_prefix=4)
    line = InProcessPipeline(stages, limits)
    clients = [
        line.submit(f"r{n}", [1 + n, 2, 3, 4 + n, 5], sampling)
        for n, sampling in enumerate([GREEDY] * 4 + [DRAWN] * 4)
    ]
    line.run()
    return [client.tokens for client in clients]


@pytest.mark.slow
def test_two_stages_of_which_one_is_a_group_give_the_tokens_of_one_process(
    group: GroupWeights,
) -> None:
    unsliced = model()
    whole = tokens_of([MlxStage(slice_model(unsliced, 0, LAYERS))])
    head = MlxStage(slice_model(unsliced, 0, CUT))
    tail = stage_of(group)
    assert tokens_of([head, tail]) == whole
    # The table and the memory are those of all ranks, which agree.
    assert packed_table(tail) == packed_table(head)
    assert tail.cache_bytes() > 0
    # A new epoch takes the same ranks, with empty caches.
    again = stage_of(group)
    assert tokens_of([MlxStage(slice_model(unsliced, 0, CUT)), again]) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "signal_name"),
    [
        (1, "SIGKILL"),
        (0, "SIGSTOP"),
        pytest.param(0, "SIGKILL", marks=pytest.mark.soak),
        pytest.param(1, "SIGSTOP", marks=pytest.mark.soak),
    ],
)
def test_a_killed_or_stopped_rank_ends_the_group_and_leaves_no_process(
    rank: int, signal_name: str, source: str
) -> None:
    weights = read(source, 0, LAYERS, 2)
    stage = stage_of(weights)
    processes = [psutil.Process(pid) for pid in weights.children.pids]
    tokens_of([stage])
    os.kill(weights.children.pids[rank], getattr(signal, signal_name))
    began = time.monotonic()
    with pytest.raises(GroupError, match=f"rank {rank}|made no progress|ended"):
        tokens_of([stage])
    assert time.monotonic() - began < END_DEADLINE_S
    wait_until(lambda: not any(map(psutil.Process.is_running, processes)), "the ranks are gone")
    # The step thread still asks for these when it is idle.
    assert set(stage.table()) == {"sequences", "lanes", "branches", "prefixes"}
    assert stage.cache_bytes() >= stage.prefix_bytes()
    # The next epoch reads the weights into new ranks.
    assert weights.children.failure is not None


def test_the_status_of_a_group_has_its_ranks_in_order_and_the_smallest_memory(
    group: GroupWeights,
) -> None:
    status = group.group("mac.stage_worker.0", usable_bytes=1001)
    assert [rank.pid for rank in status.ranks] == group.children.pids
    assert [rank.usable_bytes for rank in status.ranks] == [500, 500]
    assert (status.backend, status.usable_bytes) == ("ring", 1000)
    assert sum(rank.weight_bytes for rank in status.ranks) == group.nbytes > 0


@pytest.mark.slow
def test_ranks_end_with_their_weights(source: str) -> None:
    weights = read(source, 0, LAYERS, 2)
    processes = [psutil.Process(pid) for pid in weights.children.pids]
    del weights
    wait_until(lambda: not any(map(psutil.Process.is_running, processes)), "the ranks are gone")


def test_a_model_that_cannot_be_split_is_refused_before_a_rank_is_started(
    source: str,
) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ShardingError, match="4 attention heads are not divisible by 3"):
        read(source, 0, LAYERS, 3)
    assert set(psutil.Process().children()) <= before


def test_deadlines_follow_the_longest_steps_and_end_before_the_watchdog_ends_the_worker() -> None:
    deadlines, watchdog = StepDeadlines(decode_s=2.0), ProgressWatch(decode_s=2.0)
    assert deadlines.deadline_s(1) == 8.0
    deadlines.add(512, 1024.0 + 512)
    assert deadlines.deadline_s(256) == 4 * 3 * 256
    for length in (1, 2, 512):
        kind = "decode" if length == 1 else "prefill"
        limit_s = watchdog.limit_s(Activity(kind, 0.0, length))
        assert StepDeadlines(2.0).deadline_s(length) < limit_s
        assert StepDeadlines().deadline_s(length) < ProgressWatch().limit_s(Activity(kind, 0.0))


@pytest.mark.slow
def test_a_stopped_rank_ends_with_a_killed_stage_worker() -> None:
    worker = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    ranks = [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]
    assert len(ranks) == 2
    worker.kill()
    worker.communicate()
    wait_until(lambda: not any(map(_runs, ranks)), "the ranks are gone", END_DEADLINE_S)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
