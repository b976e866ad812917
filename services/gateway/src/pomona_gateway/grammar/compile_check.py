"""Compiles a grammar before a request is submitted with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from pomona.errors import RequestError
from pomona.messages.limits import MAX_GRAMMAR_CHARACTERS
from pomona_gateway.grammar.json_schema import json_grammar
from pomona_gateway.grammar.reply import ReplyGrammar, body_grammar
from pomona_gateway.grammar.schema_errors import depth, endless_part, faulty_part
from pomona_gateway.grammar.shapes import ChoiceShape, GrammarShape, JsonShape, RegexShape, Shape
from pomona_gateway.settings import GatewaySettings
from pomona_gateway.text import LanguageModel, Tokenizer

CODE = "structured_output_not_supported"
THREADS = 2
RETRY_AFTER_S = 2
MAX_REASON = 300
"""Maximum characters of llguidance's reason in an error message."""


class GrammarChecker:
    """Compiles grammars in threads, with the vocabulary and the limits that the tail uses.

    The tail can therefore start every grammar that passes.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="grammar-check")
        self._tokenizers: WeakKeyDictionary[Tokenizer, LLTokenizer] = WeakKeyDictionary()
        self._limits = LLParserLimits(verbose_errors=False)

    def close(self) -> None:
        """Drops waiting grammars. It does not wait for running threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def check(self, language: LanguageModel, grammar: ReplyGrammar) -> str:
        """Compiles a grammar.

        Returns:
            The grammar for ``Sampling.grammar``.

        Raises:
            RequestError: a part is impossible, not supported or too large; or all threads are
                busy.
        """
        where = grammar.shapes[0].where if grammar.shapes else None
        if not language.stop_ids:
            message = "this model has no end-of-sequence token, which a grammar needs"
            raise RequestError(400, CODE, message, where)
        deadline_s = self._settings.grammar_deadline_s
        work = self._pool.submit(self._check, language, grammar)
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.wrap_future(work)
        except TimeoutError as error:
            # A future that could be cancelled had not started: all threads were busy.
            if work.cancelled():
                raise RequestError(
                    503,
                    "grammars_busy",
                    "too many grammars wait to be compiled",
                    retry_after_s=RETRY_AFTER_S,
                ) from error
            message = (
                f"the grammar took longer than {deadline_s:g} s to compile "
                "(POMONA_GATEWAY_GRAMMAR_DEADLINE_S); ask for something simpler"
            )
            raise RequestError(400, CODE, message, where) from error
        return grammar.lark

    def _check(self, language: LanguageModel, grammar: ReplyGrammar) -> None:
        for shape in grammar.shapes:
            self._check_size(shape)
        where = grammar.shapes[0].where if grammar.shapes else None
        if len(grammar.lark) > MAX_GRAMMAR_CHARACTERS:
            message = f"the grammar is larger than {MAX_GRAMMAR_CHARACTERS} characters"
            raise RequestError(400, CODE, message, where)
        tokenizer = self._tokenizer(language)
        if not (reason := self._fault(tokenizer, grammar.lark)):
            return
        for shape in grammar.shapes:
            self._check_alone(shape, tokenizer)
        raise RequestError(400, CODE, f"the grammar is impossible: {_short(reason)}", where)

    def _check_size(self, shape: Shape) -> None:
        """Raises RequestError for a shape that exceeds the limits or has no finite value."""
        match shape:
            case JsonShape(schema=schema):
                nested = depth(schema)
                if nested > self._settings.max_schema_depth:
                    raise _error(
                        shape,
                        f"it is nested {nested} deep; at most {self._settings.max_schema_depth} "
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
        if size > self._settings.max_schema_bytes:
            raise _error(
                shape,
                f"it has {size} characters; at most {self._settings.max_schema_bytes} are "
                "allowed (POMONA_GATEWAY_MAX_SCHEMA_BYTES)",
            )

    def _check_alone(self, shape: Shape, tokenizer: LLTokenizer) -> None:
        """Raises RequestError when a shape does not compile by itself."""
        match shape:
            case JsonShape(schema=schema, lenient=lenient):

                def fault(part: Mapping[str, Any]) -> str:
                    return self._fault(tokenizer, json_grammar(JsonShape(part, "", lenient)))

                if fault(schema):
                    pointer, reason = faulty_part(schema, fault)
                    raise _error(shape, _short(reason), pointer)
            case RegexShape(pattern=pattern):
                if reason := self._fault(tokenizer, LLMatcher.grammar_from_regex(pattern)):
                    raise _error(shape, _short(reason))
            case GrammarShape():
                if reason := self._fault(tokenizer, body_grammar(shape).lark):
                    raise _error(shape, _short(reason))
            case ChoiceShape():
                pass

    def _fault(self, tokenizer: LLTokenizer, grammar: str) -> str:
        """Explains why no reply can match a grammar; empty when one can start."""
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=self._limits)
        if not matcher.is_error():
            mask = allocate_token_bitmask(1, tokenizer.vocab_size)
            fill_next_token_bitmask(matcher, mask, 0)
            if not matcher.is_stopped() or matcher.is_accepting():
                return ""
        return matcher.get_error() or "nothing matches it"

    def _tokenizer(self, language: LanguageModel) -> LLTokenizer:
        known = self._tokenizers.get(language.tokenizer)
        if known is None:
            known = LLTokenizer(
                language.tokenizer.rules(),
                n_vocab=language.facts.vocab_size,
                eos_token=list(language.stop_ids),
            )
            self._tokenizers[language.tokenizer] = known
        return known


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
