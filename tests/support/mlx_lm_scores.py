"""``mlx_lm_scores.py SOURCE``: mlx-lm's own evaluation, with the weights a stage worker reads.

Reads one JSON list of [context, continuation] pairs; answers with their [log-likelihood,
whether it is the greedy continuation]. A process of its own, because only one that was
started with a fast BLAS is quick.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from mlx_lm.evaluate import MLXLM

from pomona.models import read_facts
from pomona.models.formats.vocabulary import read_vocabulary
from pomona_stage_worker.loading import assemble, read_weights


class Evaluation(MLXLM):
    """mlx-lm's adapter for lm-eval, with a model that is there already."""

    def __init__(self, source: str) -> None:
        LM.__init__(self)
        facts = read_facts(source)
        weights = read_weights(
            source, 0, facts.layer_count, lambda done, total, fetching=False: None
        )
        self._model: Any = assemble(weights).model
        self._max_tokens = None
        self._backend = read_vocabulary(facts.path)

    def _tokenize(self, texts: list[str]) -> list[tuple[int, ...]]:
        return [tuple(self._backend.encode(text).ids) for text in texts]


def main() -> None:
    pairs: list[tuple[str, str]] = orjson.loads(sys.stdin.buffer.read())
    requests = [
        Instance("loglikelihood", {}, (context, continuation), index)
        for index, (context, continuation) in enumerate(pairs)
    ]
    evaluation: Any = Evaluation
    scores = evaluation(sys.argv[1]).loglikelihood(requests)
    print(orjson.dumps([(float(score), bool(greedy)) for score, greedy in scores]).decode())


if __name__ == "__main__":
    main()
