"""Data plane of a pipeline, for tests of the gateway: answers requests from a script.

It receives ``Submit`` and ``Cancel`` on a real :class:`Pull`.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from pomona.errors import LinkError
from pomona.messages.pipeline import (
    Body,
    Cancel,
    Queued,
    QueuePlace,
    Rejected,
    Scored,
    Started,
    Submit,
    Tensor,
    Token,
    Tokens,
)
from pomona.transport import Identity, Pull, Push
from support.members import scripted_keys

WORKERS = ("near.stage_worker", "far.stage_worker")
PROBE = [0]
"""Prompt of the gateway's probes."""


@dataclass(frozen=True)
class Script:
    """Answer of a head to one submitted request.

    Attributes:
        ids: the reply, from index 0. A resumed request gets it from ``Submit.emitted`` on.
        end: id after ``ids`` that ends the reply with ``stop``; None ends it with ``length``
            at the last of ``ids``.
        step_s: seconds between tokens.
        batch: tokens in one message.
        fail_after: reject the attempt with ``epoch_failed`` after this many of its tokens.
        reject: send this instead of a reply; request and attempt are filled in.
        silent_after: send nothing after this many tokens.
        cached: prompt tokens found in the prefix cache.
        places: queue positions to report before the prompt starts, ``step_s`` apart.
        prefilled: numbers of processed prompt tokens to report, ``step_s`` apart.
        logprobs: returns ``logprob`` and ``top`` of an id of the reply or the prompt.
        logprob_batch: prompt log-probabilities in one message.
        fail_logprobs_after: reject the attempt with ``epoch_failed`` after this many messages
            of prompt log-probabilities.
        order: indexes of the tokens to send, in this order; None sends each once.
        guesses: right and wrong guesses that each token reports.
    """

    ids: tuple[int, ...] = ()
    end: int | None = None
    step_s: float = 0.0
    batch: int = 1
    fail_after: int | None = None
    reject: Rejected | None = None
    silent_after: int | None = None
    cached: int = 0
    places: tuple[int, ...] = ()
    prefilled: tuple[int, ...] = ()
    logprobs: Callable[[int], tuple[float, tuple[tuple[int, float], ...]]] | None = None
    order: tuple[int, ...] | None = None
    logprob_batch: int = 3
    fail_logprobs_after: int | None = None
    guesses: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Submitted:
    submit: Submit
    ids: list[int]
    epoch: int
    prediction: tuple[int, ...] = ()


@dataclass(order=True)
class _Scheduled:
    at: float
    order: int
    send: Callable[[], None] = field(compare=False)


class ScriptedHead:
    """Runs one thread with one Pull and one Push to each gateway.

    Attributes:
        submitted: requests so far, probes included.
        cancelled: monotonic time and message of each ``Cancel``.
    """

    def __init__(self, script: Callable[[Submitted], Script]) -> None:
        self.script: Callable[[Submitted], Script] = script
        self.boot = f"boot{time.monotonic_ns():x}"
        self.submitted: list[Submitted] = []
        self.cancelled: list[tuple[float, Cancel]] = []
        self._identity = Identity("pomona", WORKERS[0], self.boot)
        self._keys = scripted_keys()
        self._pull = Pull("127.0.0.1", trust=self._keys)
        self.endpoint = self._pull.endpoint
        self._pushes: dict[str, Push] = {}
        self._scheduled: list[_Scheduled] = []
        self._order = itertools.count()
        self._cancelled: set[tuple[str, int]] = set()
        self._closing = threading.Event()
        self._wake = self._pull.waker()
        self._thread = threading.Thread(target=self._run, name="scripted head")
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._wake()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def requests(self) -> list[Submitted]:
        """Returns the submitted requests without the gateway's probes."""
        return [x for x in list(self.submitted) if x.ids != PROBE]

    def reject(self, submitted: Submitted, rejected: Rejected) -> None:
        """Ends a request that is answered now."""
        submit = submitted.submit
        key = {"request": submit.request, "attempt": submit.attempt}
        self._send_after(0, submitted, replace(rejected, **key))
        self._wake()

    def _run(self) -> None:
        while not self._closing.is_set():
            now = time.monotonic()
            while self._scheduled and self._scheduled[0].at <= now:
                heapq.heappop(self._scheduled).send()
            wait = min(0.5, self._scheduled[0].at - now) if self._scheduled else 0.5
            message = self._pull.receive(max(0.001, wait))
            if message is None:
                continue
            match message.envelope.body:
                case Submit() as submit:
                    ids = array("i", bytes(message.buffers[0])).tolist()
                    expected = array("i", b"".join(map(bytes, message.buffers[1:])))
                    submitted = Submitted(submit, ids, message.envelope.epoch, tuple(expected))
                    self._submit(submitted)
                case Cancel() as cancel:
                    self._cancelled.add((cancel.request, cancel.attempt))
                    self.cancelled.append((time.monotonic(), cancel))
                case _:
                    raise AssertionError(message.envelope.body)
        for push in self._pushes.values():
            push.close()
        self._pull.close()

    def _send(
        self,
        submitted: Submitted,
        body: Body,
        tensors: tuple[Tensor, ...] = (),
        buffers: tuple[bytes, ...] = (),
    ) -> None:
        submit = submitted.submit
        if (submit.request, submit.attempt) in self._cancelled:
            return
        push = self._pushes.get(submit.reply)
        if push is None:
            push = self._pushes[submit.reply] = Push(
                self._identity, submit.reply, 1.0, trust=self._keys
            )
        try:
            push.send(body, submitted.epoch, tensors, buffers)
        except LinkError:
            # Its gateway is gone. The next message would wait as long.
            self._cancelled.add((submit.request, submit.attempt))

    def _send_after(self, after_s: float, submitted: Submitted, body: Body) -> None:
        self._call_after(after_s, lambda: self._send(submitted, body))

    def _call_after(self, after_s: float, send: Callable[[], None]) -> None:
        heapq.heappush(
            self._scheduled, _Scheduled(time.monotonic() + after_s, next(self._order), send)
        )

    def _submit(self, submitted: Submitted) -> None:
        self.submitted.append(submitted)
        submit = submitted.submit
        probe = submitted.ids == PROBE
        script = Script(ids=(0,)) if probe else self.script(submitted)
        key = (submit.request, submit.attempt)
        if script.reject is not None:
            refused = replace(script.reject, request=key[0], attempt=key[1])
            self._send_after(0, submitted, refused)
            return
        prompt = len(submitted.ids) - submit.emitted
        after = 0.0
        for position in script.places:
            self._send_after(after, submitted, Queued((QueuePlace(*key, position),)))
            after += script.step_s
        for done in (script.cached, *script.prefilled):
            started = Started(*key, script.cached, done, prompt)
            self._send_after(after, submitted, started)
            after += script.step_s if script.prefilled else 0.0
        for n, message in enumerate(_prompt_logprobs(submitted, script)):
            if n == script.fail_logprobs_after:
                failed = Rejected(*key, 503, "epoch_failed", "a stage is gone")
                self._send_after(after, submitted, failed)
                return
            self._call_after(after, lambda message=message: self._send(submitted, *message))
        tokens = list(_tokens(submitted, script))
        for n in range(0, len(tokens), script.batch):
            if script.silent_after is not None and n >= script.silent_after:
                return
            if script.fail_after is not None and n >= script.fail_after:
                break
            after += script.step_s
            part = Tokens(tuple(tokens[n : n + script.batch]))
            self._send_after(after, submitted, part)
        if script.fail_after is not None:
            failed = Rejected(*key, 503, "epoch_failed", "a stage is gone")
            self._send_after(after, submitted, failed)


def _prompt_logprobs(
    submitted: Submitted, script: Script
) -> Iterator[tuple[Scored, tuple[Tensor, ...], tuple[bytes, ...]]]:
    submit = submitted.submit
    count = submit.sampling.prompt_logprobs
    if count is None or script.logprobs is None:
        return
    prompt = submitted.ids[: len(submitted.ids) - submit.emitted]
    for index in range(submit.scored, len(prompt) - 1, script.logprob_batch):
        ids = prompt[index + 1 :][: script.logprob_batch]
        logprobs = [script.logprobs(i) for i in ids]
        top = [pair for _, pairs in logprobs for pair in pairs[:count]]
        yield (
            Scored(submit.request, submit.attempt, index),
            (
                Tensor("float32", (len(ids),)),
                Tensor("int32", (len(ids), count)),
                Tensor("float32", (len(ids), count)),
            ),
            (
                array("f", [own for own, _ in logprobs]).tobytes(),
                array("i", [token for token, _ in top]).tobytes(),
                array("f", [logprob for _, logprob in top]).tobytes(),
            ),
        )


def _tokens(submitted: Submitted, script: Script) -> Iterator[Token]:
    submit = submitted.submit
    whole = [*script.ids, *([] if script.end is None else [script.end])]
    limit = submit.sampling.max_tokens
    for index in script.order or range(submit.emitted, min(len(whole), limit)):
        last = index == len(whole) - 1
        finish = "stop" if last and script.end is not None else None
        if finish is None and (last or index == limit - 1):
            finish = "length"
        logprob, top = script.logprobs(whole[index]) if script.logprobs else (None, ())
        yield Token(
            request=submit.request,
            attempt=submit.attempt,
            index=index,
            token=whole[index],
            finish=finish,
            logprob=logprob,
            top=top,
            accepted=script.guesses[0],
            rejected=script.guesses[1],
        )
