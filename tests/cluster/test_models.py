"""Several models in one cluster: loaded, served side by side, unloaded, fetched from a hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx_lm.generate import generate_step

from pomona_gateway.text import load_language_model
from pomona_gateway.text.tokenizer import read_tokenizer
from support.clusters import ANSWER, MODEL, Cluster, run_pomona
from support.clusters import QUESTION as CAPITAL
from support.doubles.hub import FakeHub, fake_hub
from support.models.folders import tensors_of, write_folder
from support.models.little_qwen import CONFIG, random_model
from support.models.rewritten import write_as_internlm2
from support.models.tiny_model import TEMPLATE, end_id, tiny_backend
from support.waiting import wait_until

HUB_NAME = "someone/small-model"
QUESTION = "hello there"


def write_model(folder: Path) -> Path:
    write_folder(folder, tensors_of(random_model()), CONFIG, files=3)
    tiny_backend().save(str(folder / "tokenizer.json"))
    tokenizer = {"eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def mlx_lm_tokens(folder: Path, text: str) -> list[str]:
    """Returns the tokens of mlx-lm's greedy answer, with its own loader, in one process."""
    model, config = mlx_lm.utils.load_model(folder, lazy=True)
    model.set_dtype(mx.float32)
    language = load_language_model(str(folder))
    prompt = language.templates["default"].render([{"role": "user", "content": text}])
    ids = list(read_tokenizer(folder).encode(prompt, chat=True))
    tokens: list[str] = []
    for token, _ in generate_step(mx.array(ids), model, max_tokens=32):
        if int(token) == config["eos_token_id"]:
            break
        tokens.append(language.tokenizer.token_text(int(token)))
    return tokens


def mlx_lm_answer(tokens: int) -> str:
    """Returns mlx-lm's greedy answer to ``QUESTION``."""
    text = f"<|begin|>user\n{QUESTION}<|end|><|begin|>assistant\n"
    prompt = mx.array(tiny_backend().encode(text).ids)
    steps = generate_step(prompt, random_model(), max_tokens=tokens)
    ids = [int(token) for token, _ in steps]
    ids = ids[: ids.index(end_id())] if end_id() in ids else ids
    return tiny_backend().decode(ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "little-qwen")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_as_internlm2(tmp_path_factory.mktemp("models") / "trained-internlm2")


@pytest.fixture(scope="module")
def hub(folder: Path) -> Generator[FakeHub]:
    with fake_hub({HUB_NAME: folder}) as served:
        yield served


@pytest.fixture(scope="module")
def cluster(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    place = tmp_path_factory.mktemp("cluster")
    cluster = Cluster.start(
        place,
        variables={
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(place / "hf"),
            "POMONA_MODELS_DIR": str(place / "copies"),
            "POMONA_STAGE_WORKER_MEMORY_BYTES": str(3 << 30),
        },
    )
    try:
        cluster.wait_ready()
        yield cluster
        assert cluster.stop() == 0
    finally:
        cluster.destroy()


def epochs(cluster: Cluster) -> dict[str, int]:
    return {x["model"]: x["epoch"] for x in cluster.status()["pipelines"]}


@contextmanager
def repeated_requests(cluster: Cluster) -> Generator[list[str]]:
    """Repeats the default question while the block runs. Yields the list of answers."""
    answers: list[str] = []
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            answers.append(cluster.chat())

    with ThreadPoolExecutor(1) as executor:
        requests = executor.submit(repeat)
        try:
            yield answers
        finally:
            stop.set()
        requests.result()


def models(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    done = run_pomona("models", *arguments, "--port", str(cluster.ports.first))
    return done.returncode, done.stdout + done.stderr


def post_chat(cluster: Cluster, model: str) -> httpx.Response:
    with cluster.client() as client:
        return client.post(
            "/v1/chat/completions",
            json={
                "model": model,
                "messages": [{"role": "user", "content": QUESTION}],
                "temperature": 0,
                "max_tokens": 16,
            },
        )


def tokens_of(cluster: Cluster, model: str) -> list[str]:
    """Returns the tokens of a greedy answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": CAPITAL}],
        "temperature": 0,
        "max_tokens": 32,
        "logprobs": True,
    }
    with cluster.client() as client:
        answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    return [x["token"] for x in answer["choices"][0]["logprobs"]["content"]]


def answer_of(cluster: Cluster, model: str) -> str:
    return post_chat(cluster, model).raise_for_status().json()["choices"][0]["message"]["content"]


def test_trained_models_of_two_families_are_served_side_by_side(
    cluster: Cluster, trained: Path
) -> None:
    before = epochs(cluster)
    with repeated_requests(cluster) as answers:
        code, output = models(cluster, "load", str(trained))
        assert (code, output.strip()) == (0, f"{trained.name} is ready")
        words = tokens_of(cluster, trained.name)
    assert words == mlx_lm_tokens(trained, CAPITAL)
    assert "Paris" in "".join(words)
    assert answers
    assert set(answers) == {ANSWER}
    assert epochs(cluster) == before | {trained.name: max(epochs(cluster).values())}
    code, output = models(cluster, "list", "--json")
    listed = {x["name"]: x["state"] for x in json.loads(output) if x["where"] == "cluster"}
    assert listed == {MODEL: "ready", trained.name: "ready"}
    pipelines = {x["model"]: x for x in cluster.status()["pipelines"]}
    assert len(pipelines[trained.name]["stages"]) == len(pipelines[MODEL]["stages"]) == 2
    assert models(cluster, "unload", trained.name)[0] == 0


def listed_states(cluster: Cluster) -> dict[str, str]:
    """Returns the states that ``GET /v1/models`` gives, by model."""
    with cluster.client() as client:
        return {x["id"]: x["state"] for x in client.get("/v1/models").json()["data"]}


def test_a_request_for_an_unloaded_model_loads_it(cluster: Cluster, folder: Path) -> None:
    assert models(cluster, "load", str(folder))[0] == 0
    code, output = models(cluster, "unload", "Little-Qwen")
    assert (code, output.splitlines()[0]) == (0, "little-qwen is unloaded")
    assert "next request for it loads it again" in output
    code, output = models(cluster, "unload", "nosuch")
    assert (code, "there is no model 'nosuch'" in output) == (1, True)
    assert listed_states(cluster)["little-qwen"] == "unloaded"
    assert cluster.chat() == ANSWER
    answer = post_chat(cluster, "little-qwen")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "is being loaded" in answer.json()["error"]["message"]
    wait_until(
        lambda: post_chat(cluster, "little-qwen").is_success, "the model is loaded by request"
    )
    assert answer_of(cluster, "little-qwen") == mlx_lm_answer(16)


def test_an_idle_model_is_unloaded_and_the_next_request_loads_it(
    folder: Path, tmp_path: Path
) -> None:
    cluster = Cluster.start(
        tmp_path,
        str(folder),
        stages=1,
        variables={"POMONA_PLANNER_IDLE_UNLOAD_S": "6"},
    )

    def served() -> dict[str, Any]:
        with cluster.client() as client:
            return client.get("/readyz").json()["models"]

    try:
        cluster.wait_ready()
        assert answer_of(cluster, folder.name) == mlx_lm_answer(16)
        wait_until(lambda: not served(), "the model is unloaded")
        asked = run_pomona("chat", "--port", str(cluster.ports.first), "Hi")
        assert asked.returncode == 0, asked.stderr
        assert "is being loaded" in asked.stderr, asked.stderr
        assert cluster.stop() == 0
    finally:
        cluster.destroy()


def test_a_damaged_model_is_refused_with_its_file_and_other_models_keep_serving(
    cluster: Cluster, tmp_path: Path
) -> None:
    damaged = write_model(tmp_path / "damaged")
    file = sorted(damaged.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-500])
    code, output = models(cluster, "load", str(damaged))
    assert code == 1
    words = " ".join(output.split())
    assert "model-00002-of-00003.safetensors" in words.replace(" ", "")[:2000] or file.name in words
    assert "cut short" in words
    assert cluster.chat() == ANSWER
    assert models(cluster, "unload", "damaged")[0] == 0
    mute = write_model(tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    code, output = models(cluster, "load", str(mute))
    assert code == 1
    assert "has no tokenizer.json" in " ".join(output.split())
    assert models(cluster, "unload", "mute")[0] == 0


def test_a_hub_id_is_fetched_once_and_served(cluster: Cluster, hub: FakeHub, folder: Path) -> None:
    code, output = models(cluster, "load", HUB_NAME)
    assert (code, output.strip()) == (0, f"{HUB_NAME} is ready")
    assert answer_of(cluster, HUB_NAME) == mlx_lm_answer(16)
    (planned,) = [x["source"] for x in cluster.status()["pipelines"] if x["model"] == HUB_NAME]
    assert planned == f"{HUB_NAME}@{hub.revisions_of(HUB_NAME)[-1]}"
    weights = sum(x.stat().st_size for x in folder.glob("*.safetensors"))
    heads = sum(min(x.stat().st_size, 1 << 16) for x in folder.glob("*.safetensors"))
    # Planner, gateway and workers share one copy, but each may fetch the headers.
    assert hub.weight_bytes() <= weights + 4 * heads
