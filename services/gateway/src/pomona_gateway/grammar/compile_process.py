"""Compiles grammars of one model: ``python -m pomona_gateway.grammar.compile_process``.

The arguments are the model's path, the size of its vocabulary, its stop ids as JSON, and the limits
of a shape in characters and in depth. Standard input is a Unix socket. Each message there brings
the descriptor of a socket for one grammar; over it a fork of this process writes a line with its
process id, reads a line of JSON with ``deadline_s``, ``lark`` and ``shapes``, and answers by a line
of JSON: empty, or ``error`` and the ``parameter`` to blame.

A few kilobytes of schema can take minutes and gigabytes to compile. The kernel ends a fork at the
deadline or when it takes more than ``MAX_BYTES``; its socket then ends without an answer.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from pydantic import TypeAdapter

from pomona.errors import RequestError
from pomona.messages.limits import MAX_GRAMMAR_CHARACTERS
from pomona_gateway.grammar.json_schema import json_grammar
from pomona_gateway.grammar.reply import body_grammar
from pomona_gateway.grammar.schema_errors import depth, endless_part, faulty_part
from pomona_gateway.grammar.shapes import ChoiceShape, GrammarShape, JsonShape, RegexShape, Shape
from pomona_gateway.text.prompt_process import limit_memory
from pomona_gateway.text.tokenizer import read_tokenizer

CODE = "structured_output_not_supported"
MAX_BYTES = 512 << 20
"""Memory that a grammar may take while it is compiled, in bytes. macOS does not enforce it."""
MAX_CPU_S = 1.0
"""Processor time of a grammar, in seconds. The tail compiles it again, beside other sequences;
64 KB of an ordinary schema take 0.2 s."""
MAX_REASON = 300
"""Maximum characters of llguidance's reason in an error message."""
NICENESS = 5
"""Lower priority than the stages of this machine have."""
SESSION_NICENESS = 10
SHAPES = TypeAdapter(tuple[JsonShape | RegexShape | ChoiceShape | GrammarShape, ...])


class GrammarCompiler:
    """Compiles grammars with the vocabulary and the limits that the tail uses, so the tail can
    start every grammar that passes.

    Args:
        max_bytes: maximum size of a shape in characters.
        max_depth: maximum nesting depth of a schema.
    """

    def __init__(self, tokenizer: LLTokenizer, max_bytes: int, max_depth: int) -> None:
        self._tokenizer = tokenizer
        self._limits = LLParserLimits(verbose_errors=False)
        self._max_bytes = max_bytes
        self._max_depth = max_depth

    def check(self, lark: str, shapes: tuple[Shape, ...]) -> None:
        """Raises RequestError when a part is impossible, not supported or too large."""
        for shape in shapes:
            self._check_size(shape)
        where = shapes[0].where if shapes else None
        if len(lark) > MAX_GRAMMAR_CHARACTERS:
            message = f"the grammar is larger than {MAX_GRAMMAR_CHARACTERS} characters"
            raise RequestError(400, CODE, message, where)
        if not (reason := self._fault(lark)):
            return
        for shape in shapes:
            self._check_alone(shape)
        raise RequestError(400, CODE, f"the grammar is impossible: {_short(reason)}", where)

    def _check_size(self, shape: Shape) -> None:
        """Raises RequestError for a shape that exceeds the limits or has no finite value."""
        match shape:
            case JsonShape(schema=schema):
                nested = depth(schema)
                if nested > self._max_depth:
                    raise _error(
                        shape,
                        f"it is nested {nested} deep; at most {self._max_depth} "
                        "is allowed (POMONA_GATEWAY_MAX_SCHEMA_DEPTH)",
                    )
                size = len(json.dumps(schema))
                if endless := endless_part(schema):
                    raise _error(shape, "it must contain itself, so no value ends", endless)
            case RegexShape(pattern=pattern):
                size = len(pattern)
            case ChoiceShape(texts=texts):
                size = sum(len(text) for text in texts)
            case GrammarShape(source=source):
                size = len(source)
        if size > self._max_bytes:
            raise _error(
                shape,
                f"it has {size} characters; at most {self._max_bytes} are "
                "allowed (POMONA_GATEWAY_MAX_SCHEMA_BYTES)",
            )

    def _check_alone(self, shape: Shape) -> None:
        """Raises RequestError when a shape does not compile by itself."""
        match shape:
            case JsonShape(schema=schema, lenient=lenient):

                def fault(part: Mapping[str, Any]) -> str:
                    return self._fault(json_grammar(JsonShape(part, "", lenient)))

                if fault(schema):
                    pointer, reason = faulty_part(schema, fault)
                    raise _error(shape, _short(reason), pointer)
            case RegexShape(pattern=pattern):
                if reason := self._fault(LLMatcher.grammar_from_regex(pattern)):
                    raise _error(shape, _short(reason))
            case GrammarShape():
                if reason := self._fault(body_grammar(shape).lark):
                    raise _error(shape, _short(reason))
            case ChoiceShape():
                pass

    def _fault(self, grammar: str) -> str:
        """Explains why no reply can match a grammar; empty when one can start."""
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if not matcher.is_error():
            mask = allocate_token_bitmask(1, self._tokenizer.vocab_size)
            fill_next_token_bitmask(matcher, mask, 0)
            if not matcher.is_stopped() or matcher.is_accepting():
                return ""
        return matcher.get_error() or "nothing matches it"


def _error(shape: Shape, reason: str, pointer: str = "") -> RequestError:
    """Returns a 400 that names the request parameter and the faulty part of its shape."""
    at = f" at {pointer!r}" if pointer else ""
    return RequestError(400, CODE, f"invalid {shape.where!r}{at}: {reason}", shape.where)


def _short(reason: str) -> str:
    # Errors of regular expressions repeat the expression first.
    reason = reason.rsplit("\nerror: ", 1)[-1]
    lines = [line.strip() for line in reason.replace("<non-verbose/>", "").splitlines()]
    text = " ".join(line for line in lines if line)
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def main() -> None:
    """Serves until the gateway closes the socket, then ends every fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the forks
    path, vocab_size, stop_ids, max_bytes, max_depth = sys.argv[1:]
    tokenizer = LLTokenizer(
        read_tokenizer(Path(path)).rules(), n_vocab=int(vocab_size), eos_token=json.loads(stop_ids)
    )
    compiler = GrammarCompiler(tokenizer, int(max_bytes), int(max_depth))
    gc.freeze()
    _lower_session_priority()
    with socket.socket(fileno=0) as control:
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                break
            if os.fork() == 0:
                _answer(compiler, descriptors[0])
            for descriptor in descriptors:
                os.close(descriptor)
    os.killpg(0, signal.SIGKILL)


def _lower_session_priority() -> None:
    """Lowers the priority of this session, which Linux may schedule as one group: niceness then
    counts only inside (https://man7.org/linux/man-pages/man7/sched.7.html, autogroup)."""
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(SESSION_NICENESS))


def _answer(compiler: GrammarCompiler, descriptor: int) -> NoReturn:
    """Compiles one grammar in a fork, and exits."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit_memory(MAX_BYTES)
        os.nice(NICENESS)
        with open(descriptor, "r+b", buffering=0) as stream:
            stream.write(b"%d\n" % os.getpid())
            with open(descriptor, "rb", closefd=False) as lines:
                request = json.loads(lines.readline())
            signal.setitimer(signal.ITIMER_REAL, request["deadline_s"])
            signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
            stream.write(json.dumps(_check(compiler, request)).encode() + b"\n")
    finally:
        os._exit(0)


def _check(compiler: GrammarCompiler, request: dict[str, Any]) -> dict[str, Any]:
    try:
        compiler.check(request["lark"], SHAPES.validate_python(request["shapes"]))
    except RequestError as error:
        return {"error": error.message, "parameter": error.param}
    return {}


if __name__ == "__main__":
    main()
