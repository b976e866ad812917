"""With any number of stages, greedy ids equal those of mlx-lm alone in one process."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from pomona import host
from pomona.addresses import IPC_PREFIX
from pomona.messages.sampling import Sampling
from pomona.models import resolve
from pomona.settings import ServiceSettings, read_settings
from pomona_gateway.text.tokenizer import read_tokenizer
from pomona_ops.bench.clusters import running_baseline
from pomona_ops.bench.driver import Driver, Reply, active_pipeline
from pomona_ops.cluster.ports import LOOPBACK
from support.clusters import ANSWER, MODEL, Cluster
from support.waiting import wait_until

REPLY = 8
CONCURRENCY = 7
STORY = "The lighthouse keeper counted the ships, wrote their names down, and lit the lamp. "
TEXTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "def fibonacci(n):",
    "1, 1, 2, 3, 5, 8,",
    "Zażółć gęślą jaźń. 你好，世界。 🐑",
    "Once upon a time",
    "The three laws of thermodynamics are",
    "Q: Why is the sky blue?\nA:",
    "x",
    STORY * 12,
    STORY * 32,
]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = read_tokenizer(resolve(MODEL))
    ids = [list(tokenizer.encode(text, chat=False)) for text in TEXTS]
    assert max(map(len, ids)) > 512, "some prompt must be longer than one chunk"
    return ids


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]]) -> list[list[int]]:
    """The ids that mlx-lm alone generates from each prompt."""

    async def generate() -> list[list[int]]:
        async with running_baseline(MODEL, threads=2) as baseline:
            return [(await baseline.run([ids], REPLY))["tokens"][0] for ids in prompts]

    return asyncio.run(generate())


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_greedy_ids_equal_those_of_mlx_lm(
    stages: int, prompts: list[list[int]], expected: list[list[int]], tmp_path: Path
) -> None:
    variables = {"POMONA_PLANNER_DRAFT_MODEL": MODEL} if stages == 2 else {}
    cluster = Cluster.start(tmp_path, stages=stages, variables=variables)
    try:
        cluster.wait_ready()
        endpoint = f"tcp://{LOOPBACK}:{cluster.ports.control_subscribe}"
        name = read_settings(ServiceSettings).cluster
        pipeline = asyncio.run(active_pipeline(endpoint, name, 30.0))
        assert len(pipeline.stages) == stages
        if host.is_linux():
            assert all(stage.address.startswith(IPC_PREFIX) for stage in pipeline.stages)
        with Driver(pipeline, name) as driver:
            greedy = Sampling(max_tokens=REPLY, temperature=0.0)
            one_by_one: list[Reply] = []
            for ids in prompts:
                one_by_one.append(driver.submit(ids, greedy, share="one by one"))
                driver.collect(one_by_one)
            together = [
                driver.submit(ids, greedy, share="together") for ids in prompts[:CONCURRENCY]
            ]
            driver.collect(together)
            guessed: list[Reply] = []
            if variables:
                wait_until(lambda: _runs_draft_model(cluster), "the draft model runs", 120.0)
                guessed = [driver.submit(x, greedy, speculative=True) for x in prompts[:1]]
                driver.collect(guessed)
        assert cluster.chat() == ANSWER
        (planned,) = cluster.status()["pipelines"]
        assert len(planned["stages"]) == stages
        assert cluster.stop(signal.SIGTERM) == 0, cluster.output
    finally:
        cluster.destroy()
    assert [reply.tokens for reply in one_by_one] == expected
    assert [reply.tokens for reply in together] == expected[:CONCURRENCY]
    assert [reply.tokens for reply in guessed] == expected[: len(guessed)]


def _runs_draft_model(cluster: Cluster) -> bool:
    """Returns whether the head has loaded the draft model."""
    (pipeline,) = cluster.status()["pipelines"]
    guesses = pipeline["speculation"]
    return bool(guesses) and guesses["off"] == "" and set(guesses["unused"]) == {"prediction heads"}
