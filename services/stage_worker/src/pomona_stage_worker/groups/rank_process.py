"""``python -m pomona_stage_worker.groups.rank_process DESCRIPTOR``: one rank of a tensor group.

A child of a stage worker, which owns the deadlines: a collective hangs when another rank stops,
and then only the parent can end this process. Every rank runs the same steps in the same order,
samplers included, since logits are the same on all ranks and draws are keyed. Rank 0 reports the
results.
"""

from __future__ import annotations

from pomona_stage_worker.hardware.mlx_lm_import import import_mlx_lm

import_mlx_lm()

import os  # noqa: E402 - what follows imports parts of mlx-lm
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from hashlib import blake2b  # noqa: E402

import mlx.core as mx  # noqa: E402
import orjson  # noqa: E402

from pomona.errors import ProtocolError  # noqa: E402
from pomona.messages.codec import Buffer  # noqa: E402
from pomona.models import resolve  # noqa: E402
from pomona.parent_watch import LIFELINE_VARIABLE  # noqa: E402
from pomona.transport.channels import Channel  # noqa: E402
from pomona_stage_worker.groups.rank_messages import (  # noqa: E402
    AskState,
    Assemble,
    CacheState,
    Done,
    Failed,
    Load,
    Progress,
    PromptHeader,
    Ready,
    Report,
    RunStep,
    Sampled,
    Started,
    StepDigest,
    decode_command,
    encode,
)
from pomona_stage_worker.hardware.device import this_device  # noqa: E402
from pomona_stage_worker.hardware.x86_kernels import use_on_x86  # noqa: E402
from pomona_stage_worker.loading import StageWeights, assemble, read_weights  # noqa: E402
from pomona_stage_worker.model.mlx_stage import MlxStage, Stage, StepOutput  # noqa: E402
from pomona_stage_worker.model.warmup import warm_up  # noqa: E402
from pomona_stage_worker.sampling.grammar_mask import GrammarCompiler  # noqa: E402
from pomona_stage_worker.testing.emulated import EmulatedStage  # noqa: E402

IDLE_S = 3600.0
PROGRESS_INTERVAL_S = 0.5
SPIN_S = 0.0005
"""Time after a step in which the next one is awaited without sleeping."""


class RankProcess:
    """Serves one rank until the parent ends it.

    Args:
        channel: connection to the stage worker.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._rank = int(os.environ["MLX_RANK"])
        self._weights: StageWeights | None = None
        self._emulated: Load | None = None
        self._stage: Stage | None = None
        self._reported_at = 0.0
        self._spins = False
        self._spin_s = 0.0

    def run(self) -> None:
        while True:
            frames = self._channel.receive(0)
            if frames is None:
                if self._stage is not None and self._stage.prebuild():
                    continue
                frames = self._channel.receive(IDLE_S, self._spin_s)
                self._spin_s = 0.0
            if frames is not None:
                self._obey(frames)

    def _obey(self, frames: Sequence[Buffer]) -> None:
        match decode_command(frames):
            case Load() as load:
                self._load(load)
            case Assemble(pipeline=pipeline, chunk=chunk):
                assert self._weights is not None, "a rank assembles what it has loaded"
                self._stage = None
                is_tail = self._weights.stop == pipeline.layer_count
                if self._emulated is not None:
                    hold_us, width = self._emulated.hold_us or 0, self._emulated.width
                    self._stage = EmulatedStage(hold_us / 1e6, width, is_tail)
                else:
                    model = assemble(self._weights)
                    grammars = None
                    if is_tail:
                        path = resolve(self._weights.source)
                        grammars = GrammarCompiler(path, pipeline.vocab_size)
                    warmup = warm_up(model, chunk, pipeline.cache_bits)
                    self._stage = MlxStage(model, pipeline.cache_bits, grammars, warmup)
                stage = self._stage
                self._report(
                    Ready(
                        stage.can_batch, stage.can_slice, stage.can_roll_back, stage.has_experts,
                        stage.warmup.decode_us, stage.warmup.tail_us,
                    )
                )  # fmt: skip
            case RunStep() as run:
                self._run_step(run, frames[1:])
            case AskState():
                stage = self._assembled()
                table = orjson.dumps(stage.table(), option=orjson.OPT_NON_STR_KEYS).decode()
                self._report(CacheState(table, stage.cache_bytes(), stage.prefix_bytes()))

    def _load(self, load: Load) -> None:
        self._spins = load.spins
        if load.hold_us is None:
            group = mx.distributed.init(strict=True, backend=load.backend)
            if this_device().kind == "cpu":
                use_on_x86()
            self._weights = read_weights(
                load.source, load.start, load.stop, self._report_progress, group=group
            )
        else:

            def no_model() -> object:
                raise ProtocolError("an emulated rank has no model")

            self._emulated = load
            self._weights = StageWeights(load.source, load.start, load.stop, no_model, {})  # type: ignore[arg-type]  # never called
        held = self._weights.nbytes
        self._report(Progress(held, held, is_done=True))

    def _run_step(self, run: RunStep, buffers: Sequence[Buffer]) -> None:
        is_first = self._rank == 0
        self._spin_s = SPIN_S if self._spins else 0.0
        computation = self._assembled().start_step(run.step, run.tensors, buffers)
        if is_first and computation.tensors:
            self._report(Started(computation.tensors))
        output = computation.finish()
        digest = _digest(run.step.step, output)
        if not is_first:
            self._report(StepDigest(run.step.step, digest))
            return
        sampled = tuple(Sampled(x.reply, x.sampled.seq, x.token) for x in output.token_results)
        prompt, tensors, sent = None, computation.tensors, output.buffers
        if output.prompt_result is not None:
            body, described, raw = output.prompt_result.message
            prompt = PromptHeader(output.prompt_result.reply, body, len(described))
            tensors, sent = (*tensors, *described), (*sent, *raw)
        self._report(Done(run.step.step, digest, sampled, prompt, tensors), sent)

    def _assembled(self) -> Stage:
        if self._stage is None:
            raise ProtocolError("a rank got a step before its stage was assembled")
        return self._stage

    def _report_progress(self, done: int, total: int, fetching: bool = False) -> None:
        now = time.monotonic()
        if now > self._reported_at + PROGRESS_INTERVAL_S:
            self._reported_at = now
            self._report(Progress(done, total))

    def _report(self, report: Report, buffers: Sequence[Buffer] = ()) -> None:
        self._channel.send(encode(report, buffers))


def _digest(step: int, output: StepOutput) -> str:
    tokens = [(x.seq, x.token) for x in output.sampled]
    return blake2b(repr((step, tokens)).encode(), digest_size=8).hexdigest()


def _end_with_parent(lifeline: int) -> None:
    """Kills all ranks when the stage worker ends, however it does; a stopped rank too."""
    os.read(lifeline, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    lifeline = int(os.environ.pop(LIFELINE_VARIABLE))
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    channel = Channel.inherited(int(sys.argv[1]))
    try:
        channel.send(encode(Progress(0, 0)))
        RankProcess(channel).run()
    except Exception as error:
        channel.send(encode(Failed(f"{type(error).__name__}: {error}"[:2000])))
        channel.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
