"""``python -m pomona_stage_worker.testing.baseline SOURCE``: mlx-lm alone, in one process.

Generates with mlx-lm's own loops from the same weights, in the same dtype and in mlx-lm's memory
layout. Reads one JSON task a line and answers with one JSON object a line::

    {"prompts": [[ids], ...], "max_tokens": n}  ->  {"tokens": [[ids], ...], "seconds": [...],
                                                     "first_token_s": s, "total_s": s}

One prompt runs through ``generate_step``, several through ``BatchGenerator``. ``seconds`` are the
times since the start of each token (one prompt) or step (several prompts).
"""

from __future__ import annotations

import sys
import time
from typing import Any

import mlx.core as mx
import orjson
from mlx_lm.generate import BatchGenerator, generate_step

from pomona.models import read_facts
from pomona_stage_worker.loading import read_weights


def main() -> None:
    source = sys.argv[1]
    layer_count = read_facts(source).layer_count
    weights = read_weights(source, 0, layer_count, lambda done, total, fetching=False: None)
    model = weights.make_model()
    model.load_weights(list(weights.arrays.items()), strict=False)
    mx.eval(model.parameters())
    del weights
    print('{"ready": true}', flush=True)
    for line in sys.stdin:
        task = orjson.loads(line)
        run = _run_one if len(task["prompts"]) == 1 else _run_many
        print(orjson.dumps(run(model, task)).decode(), flush=True)


def _run_one(model: Any, task: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    tokens: list[int] = []
    seconds: list[float] = []
    prompt = mx.array(task["prompts"][0])
    for token, _ in generate_step(prompt, model, max_tokens=task["max_tokens"]):
        tokens.append(int(token))
        seconds.append(time.perf_counter() - started)
    return _result([tokens], seconds)


def _run_many(model: Any, task: dict[str, Any]) -> dict[str, Any]:
    generator = BatchGenerator(model, max_tokens=task["max_tokens"])
    started = time.perf_counter()
    numbers = generator.insert(task["prompts"])
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    seconds: list[float] = []
    unfinished = len(numbers)
    while unfinished:
        for response in generator.next_generated():
            tokens[response.uid].append(int(response.token))
            unfinished -= response.finish_reason is not None
        seconds.append(time.perf_counter() - started)
    generator.close()
    return _result([tokens[number] for number in numbers], seconds)


def _result(tokens: list[list[int]], seconds: list[float]) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "seconds": seconds,
        "first_token_s": seconds[0],
        "total_s": seconds[-1],
    }


if __name__ == "__main__":
    main()
