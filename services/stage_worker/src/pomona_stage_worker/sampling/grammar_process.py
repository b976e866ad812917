"""Reads a model's vocabulary and tries its grammars, in a process with limits:
``python -m pomona_stage_worker.sampling.grammar_process PATH VOCAB_SIZE``.

Vocabularies and grammars come from others, and a few kilobytes of a grammar can take minutes and
gigabytes to compile. The first line of its output is the length of the vocabulary in the format of
``tokenizer.json``, which follows, or 0 and a reason. Then each line of its input is a grammar as
JSON, which a fork compiles; the answer is a line with ``1`` when it compiled within the limits.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from llguidance import LLMatcher, LLTokenizer

from pomona.errors import PomonaError
from pomona.models.formats.vocabulary import read_vocabulary

READ_S = 60.0
"""Time for the vocabulary. The largest take a few seconds."""
READ_BYTES = 3 << 30
"""Memory that the vocabulary may take, in bytes. macOS does not enforce it."""
COMPILE_S = 5.0
COMPILE_CPU_S = 2.0
"""Time and processor time of a grammar. The gateway lets pass what takes half as much."""
COMPILE_BYTES = 512 << 20
"""Memory that a grammar may take, in bytes. macOS does not enforce it."""
NICENESS = 5
GRACE_S = 10.0
"""Additional time for the process to start, and to answer."""


class GrammarRefusedError(PomonaError):
    """A vocabulary cannot be read, or a grammar cannot be compiled, within the limits."""


class GrammarProcess:
    """The process of one model. It is started at the first use, and used by one thread."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self._command = [
            *(sys.executable, "-I", "-m", "pomona_stage_worker.sampling.grammar_process"),
            *(str(path), str(vocab_size)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def vocabulary(self) -> str:
        """Returns the vocabulary as ``tokenizer.json`` has it. Raises GrammarRefusedError."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )
        assert self._process.stdout is not None
        with self._deadline(READ_S + GRACE_S):
            size, _, reason = self._process.stdout.readline().decode().partition(" ")
            content = self._process.stdout.read(int(size or 0))
        if not content:
            self.close()
            raise GrammarRefusedError(f"the vocabulary cannot be read: {reason or 'no answer'}")
        return content.decode()

    def check(self, grammar: str) -> None:
        """Raises GrammarRefusedError for a grammar that does not compile within the limits."""
        process = self._process
        if process is None or process.poll() is not None:
            self.vocabulary()
            process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with self._deadline(COMPILE_S + GRACE_S), suppress(BrokenPipeError):
            process.stdin.write(json.dumps(grammar).encode() + b"\n")
            process.stdin.flush()
            if process.stdout.readline() == b"1\n":
                return
        raise GrammarRefusedError("the grammar does not compile within the limits")

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(BrokenPipeError), process:
                pass

    def _deadline(self, seconds: float) -> _Killer:
        assert self._process is not None
        return _Killer(self._process, seconds)


class _Killer:
    """Kills a process that takes too long."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._timer = threading.Timer(seconds, process.kill)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _limit(max_bytes: int, seconds: float, cpu_s: float) -> None:
    with suppress(ValueError, OSError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + max_bytes, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)


def main() -> None:
    """Serves until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    output = sys.stdout.buffer
    path, vocab_size = Path(sys.argv[1]), int(sys.argv[2])
    _limit(READ_BYTES, READ_S, READ_S)
    try:
        content = read_vocabulary(path).to_str()
        tokenizer = LLTokenizer(content, n_vocab=vocab_size)
    except Exception as error:  # the libraries raise anything
        output.write(f"0 {type(error).__name__}: {str(error)[:300]}\n".encode())
        return
    output.write(b"%d\n" % len(content.encode()) + content.encode())
    output.flush()
    del content
    _limit(READ_BYTES, 0, 0)
    gc.freeze()
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            _compile(tokenizer, json.loads(line))
        passed = os.waitpid(pid, 0)[1] == 0
        output.write(b"%d\n" % passed)
        output.flush()


def _compile(tokenizer: LLTokenizer, grammar: str) -> NoReturn:
    """Compiles a grammar in a fork, and exits with 0 when it can start."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _limit(COMPILE_BYTES, COMPILE_S, COMPILE_CPU_S)
        code = int(LLMatcher(tokenizer, grammar, log_level=0).is_error())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
