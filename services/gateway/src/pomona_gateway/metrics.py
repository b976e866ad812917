"""Prometheus metrics: vLLM's names and buckets under ``pomona_``, label ``model_name``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pomona.messages.control import Pipeline

_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_COUNTS = tuple(float(d * 10**e) for e in range(6) for d in (1, 2, 5))
_MODEL = ("model_name",)
MAX_IGNORED_PATHS = 256
"""Maximum number of paths that the metric of ignored parameters tells apart."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Monotonic times of one sequence, in seconds; 0 for what has not happened.

    Attributes:
        opened: the sequence was submitted.
        started: its prefill began.
        first: its first token arrived.
        last: its latest token arrived.
    """

    opened: float
    started: float
    first: float
    last: float


class Metrics:
    """The metrics of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._by_model: list[Counter | Gauge | Histogram] = []
        self._started: set[str] = set()
        self._first_tokens = 0, 0.0

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            found = Histogram(
                f"pomona_{name}", text, _MODEL, buckets=buckets, registry=self.registry
            )
            self._by_model.append(found)
            return found

        def counter(name: str, text: str, labels: tuple[str, ...] = _MODEL) -> Counter:
            found = Counter(f"pomona_{name}", text, labels, registry=self.registry)
            if labels == _MODEL:
                self._by_model.append(found)
            return found

        def gauge(name: str, text: str) -> Gauge:
            found = Gauge(f"pomona_{name}", text, _MODEL, registry=self.registry)
            self._by_model.append(found)
            return found

        self.running = gauge("num_requests_running", "Sequences whose prefill has begun")
        self.waiting = gauge("num_requests_waiting", "Sequences waiting for their prefill")
        self.cache_use = gauge(
            "kv_cache_usage_perc", "Fraction of the KV cache that running sequences use, 0 to 1"
        )
        self._cache = Gauge(
            "pomona_cache_config_info",
            "KV cache configuration of a model; always 1",
            (*_MODEL, "block_size", "num_gpu_blocks", "kv_cache_size_tokens", "cache_dtype",
             "enable_prefix_caching"),
            registry=self.registry,
        )  # fmt: skip
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens prefilled")
        self.generation_tokens = counter("generation_tokens", "Tokens generated")
        self.prefix_queries = counter(
            "prefix_cache_queries", "Prompt tokens looked up in the prefix cache"
        )
        self.prefix_hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache")
        self.success = counter(
            "request_success", "Sequences that ended without an error", (*_MODEL, "finished_reason")
        )
        self.refused = counter(
            "request_refused", "Requests answered with an error", (*_MODEL, "status", "code")
        )
        # A rate needs a first sample; this is the error that clients meet most often.
        self.refused.labels("", "503", "model_loading")
        self.key_requests = counter("key_requests", "Requests answered, by key", ("key",))
        self.key_tokens = counter(
            "key_tokens", "Tokens of prompts and replies, by key", ("key", "kind")
        )
        self._ignored = counter(
            "parameters_ignored", "Parameters of requests without effect", ("dialect", "path")
        )
        self._ignored_paths: set[tuple[str, str]] = set()
        self.dropped = counter(
            "messages_dropped", "Messages of the data plane that were dropped", ("reason",)
        )
        self.resubmitted = counter(
            "request_resubmitted", "Resubmissions of a request to another epoch"
        )
        self.first_token = histogram(
            "time_to_first_token_seconds", "From request to first token", _FIRST_TOKEN
        )
        self.inter_token = histogram(
            "inter_token_latency_seconds", "Between two tokens of a reply", _TOKEN
        )
        self.mean_per_token = histogram(
            "request_time_per_output_token_seconds", "Mean time per token of a reply", _TOKEN
        )
        self.e2e = histogram("e2e_request_latency_seconds", "From request to last token", _REQUEST)
        self.queue = histogram(
            "request_queue_time_seconds", "From request to the start of prefill", _REQUEST
        )
        self.inference = histogram(
            "request_inference_time_seconds",
            "From the start of prefill to the last token",
            _REQUEST,
        )
        self.prefill = histogram(
            "request_prefill_time_seconds", "From the start of prefill to the first token", _REQUEST
        )
        self.decode = histogram(
            "request_decode_time_seconds", "From the first token to the last", _REQUEST
        )
        self.request_prompt = histogram(
            "request_prompt_tokens", "Prompt tokens of a sequence", _COUNTS
        )
        self.request_generation = histogram(
            "request_generation_tokens", "Reply tokens of a sequence", _COUNTS
        )
        self.request_max_tokens = histogram(
            "request_params_max_tokens", "max_tokens of a request", _COUNTS
        )
        self.request_n = histogram("request_params_n", "n of a request", (1, 2, 5, 10, 20))

    def set_cache_config(self, pipelines: Iterable[Pipeline]) -> None:
        """Sets the cache configuration of each pipeline. A block is one token."""
        self._cache.clear()
        for pipeline in pipelines:
            self._start(pipeline.model)
            tokens = str(pipeline.cache_tokens)
            dtype = f"int{pipeline.cache_bits}" if pipeline.cache_bits else "auto"
            self._cache.labels(pipeline.model, "1", tokens, tokens, dtype, "True").set(1)

    def _start(self, model: str) -> None:
        """Makes every metric of a model exist from the start, so that a rate has a first value."""
        if model in self._started:
            return
        self._started.add(model)
        for metric in self._by_model:
            metric.labels(model)
        for reason in ("stop", "length"):
            self.success.labels(model, reason)

    def observe_token(self, model: str, count: int, timing: Timing, now: float) -> None:
        """Records a token that arrives now, after ``count`` others of its reply."""
        self.generation_tokens.labels(model).inc()
        if count == 0:
            self.first_token.labels(model).observe(now - timing.opened)
            number, seconds = self._first_tokens
            self._first_tokens = number + 1, seconds + now - timing.opened
            return
        self.inter_token.labels(model).observe(now - timing.last)

    def first_tokens(self) -> tuple[int, float]:
        """Returns the number of first tokens of all models so far, and the sum of the times to
        them in seconds."""
        return self._first_tokens

    def observe_prompt(self, model: str, length: int, cached: int) -> None:
        """Records a prefilled prompt; ``cached`` of its tokens came from the prefix cache."""
        self.prompt_tokens.labels(model).inc(length)
        self.prefix_queries.labels(model).inc(length)
        self.prefix_hits.labels(model).inc(cached)

    def observe_end(
        self, model: str, reason: str, prompt: int, reply: int, timing: Timing, now: float
    ) -> None:
        """Records a sequence that ended now, with ``prompt`` and ``reply`` tokens."""
        self.success.labels(model, reason).inc()
        self.e2e.labels(model).observe(now - timing.opened)
        self.request_prompt.labels(model).observe(prompt)
        self.request_generation.labels(model).observe(reply)
        prefill_start = timing.started or timing.first
        if not prefill_start:
            return
        self.queue.labels(model).observe(prefill_start - timing.opened)
        self.inference.labels(model).observe(now - prefill_start)
        if timing.first:
            self.prefill.labels(model).observe(timing.first - prefill_start)
            self.decode.labels(model).observe(timing.last - timing.first)
        if reply > 1:
            self.mean_per_token.labels(model).observe((timing.last - timing.first) / (reply - 1))

    def observe_key(self, key: str, prompt: int, reply: int) -> None:
        """Records the tokens of a request that ended; ``key`` is "" without a key."""
        self.key_requests.labels(key).inc()
        self.key_tokens.labels(key, "prompt").inc(prompt)
        self.key_tokens.labels(key, "reply").inc(reply)

    def observe_ignored(self, dialect: str, path: str) -> bool:
        """Counts a parameter without effect. Returns whether the path is new.

        Paths beyond ``MAX_IGNORED_PATHS`` are counted as ``other`` and are never new.
        """
        known = (dialect, path) in self._ignored_paths
        if not known and len(self._ignored_paths) >= MAX_IGNORED_PATHS:
            self._ignored.labels(dialect, "other").inc()
            return False
        self._ignored_paths.add((dialect, path))
        self._ignored.labels(dialect, path).inc()
        return not known

    def exposition(self) -> bytes:
        """Returns all metrics in Prometheus' exposition format."""
        return generate_latest(self.registry)
