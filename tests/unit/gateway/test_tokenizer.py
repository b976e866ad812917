"""Tokenizers and chat templates give the results of their reference implementations."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders
from tokenizers import Tokenizer as Backend

from pomona.errors import ModelUnsupportedError, RequestError
from pomona.models import EMBEDDED_MODEL
from pomona_gateway.generation.detokenizer import incremental_decoder
from pomona_gateway.text import LanguageModel, Tokenizer, load_language_model
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.tokenizer import read_tokenizer
from support.models.tiny_model import TEMPLATE, write_tiny_model


@cache
def smollm() -> LanguageModel:
    return load_language_model(EMBEDDED_MODEL)


@cache
def smollm_tokenizer() -> Tokenizer:
    return read_tokenizer(smollm().facts.path)


@cache
def known_bytes() -> frozenset[int]:
    """Returns the bytes in this vocabulary, which lacks those of rare characters."""
    tokenizer = smollm().tokenizer
    tokens = (tokenizer.token_bytes(i) for i in range(tokenizer.size))
    return frozenset(token[0] for token in tokens if len(token) == 1)


@pytest.mark.slow
def test_the_default_model_gets_the_prompt_of_its_training() -> None:
    language = smollm()
    prompt = language.templates["default"].render(
        [{"role": "user", "content": "What is the capital of France?"}]
    )
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
        "trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = list(smollm_tokenizer().encode(prompt, chat=True))
    assert ids[:3] == [1, 9690, 198]
    assert ids[-8:] == [4649, 47, 2, 198, 1, 520, 9531, 198]
    assert language.stop_ids == (2,)
    assert language.context_length == 8192


def test_each_digit_is_a_token() -> None:
    tokenizer = smollm().tokenizer
    ids = smollm_tokenizer().encode("12345", chat=True)
    assert [tokenizer.token_text(i) for i in ids] == list("12345")


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_text_of_known_bytes_survives_encoding_and_decoding(text: str) -> None:
    tokenizer = smollm().tokenizer
    assume(known_bytes().issuperset(text.encode()))
    ids = smollm_tokenizer().encode(text, chat=True)
    assert tokenizer.decode(ids, skip_special=False) == text
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()


@given(st.lists(st.integers(0, 49151)))
@settings(deadline=None, max_examples=100)
def test_incremental_decoding_equals_decoding_at_once(ids: list[int]) -> None:
    tokenizer = smollm().tokenizer
    decoder = incremental_decoder(tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == tokenizer.decode(ids)


def test_a_folder_is_read_from_its_tokenizer_json(tmp_path: Path) -> None:
    language = load_language_model(str(write_tiny_model(tmp_path / "tiny")))
    assert language.templates["default"].source == TEMPLATE
    tokenizer = read_tokenizer(language.facts.path)
    assert list(tokenizer.encode("<|begin|>hello", chat=False)) == [260, 259]


@pytest.mark.slow
def test_a_decoder_with_a_regular_expression_is_not_supported(tmp_path: Path) -> None:
    rules = write_tiny_model(tmp_path / "tiny") / "tokenizer.json"
    backend = Backend.from_file(str(rules))
    for pattern, supported in (("(x+x+)+y", True), (Regex("(x+x+)+y"), False)):
        backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(pattern, "z")])
        backend.save(str(rules))
        with nullcontext() if supported else pytest.raises(ModelUnsupportedError, match=str(rules)):
            load_language_model(str(rules.parent))


def test_a_template_file_overrides_the_one_in_the_configuration(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text("file")
    assert load_language_model(str(folder)).templates["default"].render([]) == "file"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ raise_exception('no system here') }}", "no system here"),
        ("{{ messages[0].content.nothing.at.all }}", "nothing"),
        ("{{ messages[9]['x'] }}", "no element 9"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 'x' * none }}", "TypeError"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    ],
)
def test_a_template_error_is_a_400_with_its_message(source: str, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])
    assert caught.value.status == 400


def test_templates_have_the_features_of_hugging_face() -> None:
    source = (
        "{%- for m in messages %}\n"
        "    {%- if loop.index == 3 %}{% break %}{% endif %}\n"
        "    {% generation %}{{ m | tojson }}{% endgeneration %}\n"
        "{% endfor %}{{ bos_token }}{{ strftime_now('%Y')|length }}{{ enable_thinking }}"
    )
    template = ChatTemplate(source, {"bos_token": "<s>"})
    messages = [{"role": "user", "content": "ü<'"}] * 5
    text = template.render(messages, enable_thinking=False)
    assert text.count('{"role": "user", "content": "ü<\'"}') == 2
    assert text.endswith("<s>4False")


def test_an_invalid_template_error_names_the_line() -> None:
    with pytest.raises(ModelUnsupportedError, match="line 2"):
        ChatTemplate("a\n{% if %}", {})
