"""Numbers in a model's files have ranges, and whatever a file says is the model's failure."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from pomona.errors import ModelError
from pomona.models import read_facts
from pomona.models.formats.safetensors_index import read_header
from support.models.tiny_model import write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"num_hidden_layers": 30_000_000}, "num_hidden_layers"),
        ({"num_hidden_layers": 4097}, r"out of range \[1, 4096\]"),
        ({"num_hidden_layers": -5}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": "2"}, "lacks the key"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 2**17}, "num_attention_heads"),
        ({"num_key_value_heads": -1}, "num_key_value_heads"),
        ({"hidden_size": 2**20 + 1}, "hidden_size"),
        ({"head_dim": 2**41}, "head_dim"),
        ({"vocab_size": 3_000_000}, "vocab_size"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"max_position_embeddings": -1}, "max_position_embeddings"),
        ({"max_position_embeddings": 2**31}, "max_position_embeddings"),
        ({"max_position_embeddings": 1e300}, "more than 20 digits"),
        ({"eos_token_id": 99_999_999_999}, "end token id"),
        ({"eos_token_id": [1, -7]}, "end token id"),
        ({"model_type": "x" * 129}, "length of a name"),
        ({"num_experts": 2, "num_experts_per_tok": 2**50}, "num_experts_per_tok"),
        ({"quantization": 7}, "cannot be read"),
        ({"layer_types": [{}, {}], "num_kv_shared_layers": 2**40}, "cannot be read"),
    ],
)
def test_numbers_out_of_range_fail_the_model(
    folder: Path, values: dict[str, Any], named: str
) -> None:
    if "num_key_value_heads" in values or "num_attention_heads" in values or "head_dim" in values:
        name_keys(folder)
    change(folder / "config.json", **values)
    with pytest.raises(ModelError, match=named):
        read_facts(str(folder))


def name_keys(folder: Path) -> None:
    """Renames the tensors of the layers, so that the layers have KV caches."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b".0.w", b".0.wk.w").replace(b".1.w", b".1.wk.w"))
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little") + 6
    file.write_bytes(struct.pack("<Q", length) + content[8:])


@pytest.mark.parametrize("value", [-1, None])
def test_a_negative_optional_number_is_an_absent_one(folder: Path, value: int | None) -> None:
    change(folder / "config.json", sliding_window=value, num_experts=value)
    assert read_facts(str(folder)).layers[0].window == 0


NESTED = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", NESTED),
        ("config.json", '{"a":' * 100_000),
        ("config.json", "[]"),
        ("config.json", "\ufeff{}"),
        ("generation_config.json", NESTED),
        ("modules.json", NESTED),
        ("model.safetensors.index.json", '{"weight_map": {"a": 7}}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": ["model.safetensors"]}}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../model.safetensors"}}'),
        ("tokenizer_config.json", '{"chat_template": [{"template": "x"}]}'),
        ("tokenizer_config.json", '{"chat_template": 7}'),
    ],
)
def test_broken_json_fails_the_model(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ModelError):
        read_facts(str(folder))


def test_a_file_of_json_has_a_limit_of_size(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(ModelError, match="more than"):
        read_facts(str(folder))


def test_a_template_that_is_not_utf_8_fails_the_model(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="UTF-8"):
        read_facts(str(folder))


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2**41], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}},
        {"a": {"dtype": 7, "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e9]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, True]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}},
        {"a": 7},
        {"a": []},
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        },
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
    ],
)
def test_headers_that_no_tensors_have_are_refused(tmp_path: Path, tensors: dict[str, Any]) -> None:
    content = json.dumps(tensors).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(content)) + content + bytes(64))
    with pytest.raises(ModelError, match="damaged"):
        read_header(file)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"{}" * 200_000])
def test_headers_are_bounded(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(content)) + content)
    with pytest.raises(ModelError):
        read_header(file)


def gguf(path: Path, change: Callable[[GGUFWriter], None]) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(9)
    writer.add_block_count(1)
    writer.add_embedding_length(4)
    writer.add_head_count(1)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("block_count", 4_000_000_000, "block_count"),
        ("block_count", 0, "block_count"),
        ("embedding_length", 2**31, "embedding_length"),
        ("attention.head_count", 0, "head_count"),
        ("attention.head_count_kv", 2**20, "head_count_kv"),
        ("context_length", 2**31, "context_length"),
    ],
)
def test_numbers_of_a_gguf_file_have_ranges(
    tmp_path: Path, key: str, value: int, named: str
) -> None:
    def set_number(writer: GGUFWriter) -> None:
        for fields in writer.kv_data:
            fields.pop(f"llama.{key}", None)
        writer.add_uint32(f"llama.{key}", value)

    with pytest.raises(ModelError, match=named):
        read_facts(str(gguf(tmp_path / "a.gguf", set_number)))


def test_a_number_of_a_gguf_file_that_is_a_text_fails_the_model(tmp_path: Path) -> None:
    def set_text(writer: GGUFWriter) -> None:
        for fields in writer.kv_data:
            fields.pop("llama.block_count", None)
        writer.add_string("llama.block_count", "many")

    with pytest.raises(ModelError, match="not a whole number"):
        read_facts(str(gguf(tmp_path / "a.gguf", set_text)))


@pytest.mark.parametrize("counts", [(2**17 + 1, 0), (0, 2**16 + 1), (2**64 - 1, 1), (1, 2**64 - 1)])
def test_a_gguf_header_states_no_more_than_is_possible(
    tmp_path: Path, counts: tuple[int, int]
) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(1000))
    with pytest.raises(ModelError, match="at most"):
        read_facts(str(file))
