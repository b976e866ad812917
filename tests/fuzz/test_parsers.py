"""Each parser of what comes from outside returns or refuses, whatever it is given.

The suite runs a fixed number of cases for each; ``make fuzz SECONDS=1800`` runs new ones for that
time.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from gguf import GGUFWriter

from pomona.auth.api_keys import KeyStore
from pomona.errors import ConfigurationError, ModelError, ProtocolError, RequestError
from pomona.messages import codec
from pomona.messages.pipeline import Cancel, Envelope
from pomona.models import check_source, read_facts
from pomona.models.formats.gguf_header import gguf_header_end, read_gguf_header
from pomona.models.formats.safetensors_index import parse_header
from pomona.models.store.hub_id import parse_hub_id
from pomona.plain_text import plain_text
from pomona_gateway.http.anthropic.messages_request import MessagesRequest
from pomona_gateway.http.ollama.chat_request import OllamaChat
from pomona_gateway.http.openai.chat_request import ChatRequest
from pomona_gateway.http.openai.responses_request import ResponsesRequest
from pomona_gateway.http.origins import ForeignOrigins
from pomona_gateway.http.request_body import parse_body
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.tokenizer import read_tokenizer
from pomona_gateway.text.vocabulary import Vocabulary
from pomona_planner.control.state_files import DesiredModelsFile, PlanFile
from support.beacons import beacon_of
from support.fuzzing import fuzz
from support.models.tiny_model import TEMPLATE, write_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    for number in (writer.add_context_length, writer.add_block_count, writer.add_head_count):
        number(1)
    writer.add_embedding_length(4)
    writer.add_token_list(["a", "ü"])
    writer.add_token_scores([0.5, -1.0])
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path.read_bytes()


def test_gguf_headers(gguf: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"

    def parse(content: bytes) -> None:
        file.write_bytes(content or b"x")
        gguf_header_end(file, content, len(content))
        read_gguf_header(file)

    fuzz(parse, [gguf], (ModelError,))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_files_of_a_model_folder(model: Path, name: str) -> None:
    whole = (model / name).read_bytes()

    def parse(content: bytes) -> None:
        (model / name).write_bytes(content)
        facts = read_facts(str(model))
        assert 1 <= facts.layer_count <= 4096

    try:
        fuzz(parse, [whole], (ModelError,))
    finally:
        (model / name).write_bytes(whole)


def test_safetensors_headers(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    file = Path("model.safetensors")
    fuzz(lambda x: parse_header(file, x), [content[8 : 8 + length]], (ModelError,))


def test_tokenizers(model: Path, tmp_path: Path) -> None:
    whole = (model / "tokenizer.json").read_bytes()

    def parse(content: bytes) -> None:
        (tmp_path / "tokenizer.json").write_bytes(content)
        found = Vocabulary(read_tokenizer(tmp_path).table)
        found.decode(range(300))

    # The library raises anything; the process that reads a tokenizer turns it into a ModelError.
    fuzz(parse, [whole], (Exception,))


def test_chat_templates() -> None:
    def parse(content: bytes) -> None:
        ChatTemplate(content.decode(errors="replace"), {}).render([{"role": "user", "content": ""}])

    seeds = [TEMPLATE.encode(), b"{% for m in messages %}{{ m | tojson }}{% endfor %}"]
    fuzz(parse, seeds, (ModelError, RequestError))


def test_beacons() -> None:
    seeds = [
        codec.encode_beacon(replace(beacon_of(kind), seq=7))[1]
        for kind in ("discovery", "planner", "stage_worker", "gateway", "health_watcher")
    ]

    def parse(content: bytes) -> None:
        service = orjson.loads(content)["facts"]["service"]
        beacon = codec.decode_beacon([codec.beacon_topic(service, "mac." + service), content])
        assert codec.decode_beacon(codec.encode_beacon(beacon)) == beacon

    fuzz(parse, seeds, (ProtocolError, ValueError, KeyError, TypeError))


def test_frames() -> None:
    envelope = Envelope(codec.PROTOCOL_VERSION, "c", "s", "b", 0, 0, 1, Cancel("r", 0))
    seeds = [bytes(codec.encode_message(envelope)[0])]

    def parse(content: bytes) -> None:
        frames = content.split(b"|")
        if codec.is_rest(frames):
            codec.decode_rest(frames)
        else:
            codec.decode_part(frames)

    fuzz(parse, [*seeds, b"b/0/0 17|xx"], (ProtocolError,))


@pytest.mark.parametrize("kind", [ChatRequest, MessagesRequest, OllamaChat, ResponsesRequest])
def test_request_bodies(kind: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools}
    seeds = [chat, {**chat, "max_tokens": 9, "stop": ["a"]}, {"model": "m", "input": "x"}]
    fuzz(
        lambda content: parse_body(kind, content),
        [json.dumps(seed).encode() for seed in seeds],
        (RequestError,),
    )


def test_names_of_models() -> None:
    def parse(content: bytes) -> None:
        text = content.decode(errors="surrogateescape")
        parse_hub_id(text)
        assert len(plain_text(text).encode()) <= 4 * 4096
        check_source(text)

    fuzz(parse, [b"owner/name@main:Q4_0", b"/etc/passwd", b"~/models/x"], (ModelError,))


def test_origins() -> None:
    allowed: Callable[[str, str], bool] = ForeignOrigins(None, ("https://a.example",))._is_allowed  # type: ignore[arg-type]  # no application is called

    def parse(content: bytes) -> None:
        origin = content.decode("latin-1")
        assert not allowed(f"https://evil.example/{origin}", "localhost")

    fuzz(parse, [b"http://localhost:1", b"https://a.example", b"null"], ())


@pytest.mark.parametrize("name", ["keys.json", "plan.json", "models.json"])
def test_state_files(tmp_path: Path, name: str) -> None:
    store = KeyStore(tmp_path)
    store.create("a")
    plan = {"model": "m", "source": "m", "epoch": 1, "layer_count": 1, "state": "forming"}
    seeds = {
        "keys.json": store.path.read_bytes(),
        "plan.json": json.dumps([plan]).encode(),
        "models.json": json.dumps({"settings": ["m"], "models": {}}).encode(),
    }

    def parse(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        if name == "keys.json":
            KeyStore(tmp_path).find("x")
        elif name == "plan.json":
            PlanFile(tmp_path)
        else:
            DesiredModelsFile(tmp_path).read()

    fuzz(parse, [seeds[name]], (ConfigurationError,))
