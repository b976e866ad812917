"""Scores texts with mlx-lm's own evaluation: ``mlx_lm_scores.py SOURCE``.

Reads a JSON list of [context, continuation] pairs from standard input. Prints a list of pairs:
log-likelihood, and true if the continuation is the greedy one. It is a process of its own so that
it can preload a fast BLAS.
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
    """Adapts mlx-lm for lm-eval, with the weights that a stage worker loads."""

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
