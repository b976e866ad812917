"""Reads what the gateway needs of a model: tokenizer, chat template, limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pomona.models import ModelFacts, read_facts
from pomona.models.folder import read_json
from pomona.models.gguf_header import read_gguf_header
from pomona.models.vocabulary import folder_backend, gguf_backend
from pomona_gateway.output import OutputFormat, output_format
from pomona_gateway.templates.chat_template import ChatTemplate
from pomona_gateway.templates.renderer import Renderer
from pomona_gateway.tokenizer.tokenizer import Tokenizer

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """How one model reads and writes text.

    Attributes:
        templates: chat templates by name; ``default`` is the one for chats.
        context_length: tokens that prompt and reply may have together.
        stop_ids: tokens that end a reply.
        output: how the model marks reasoning and tool calls in its replies.
        renderer: where its templates run.
    """

    facts: ModelFacts
    tokenizer: Tokenizer
    templates: dict[str, ChatTemplate]
    context_length: int
    stop_ids: tuple[int, ...]
    output: OutputFormat
    renderer: Renderer = field(default_factory=Renderer)


def load_language_model(source: str) -> LanguageModel:
    """Read a model's tokenizer. Takes a second or two; raises ModelError naming the file."""
    facts = read_facts(source)
    if facts.format == "gguf":
        tokenizer, templates = _from_gguf(facts.path)
    else:
        tokenizer, templates = _from_folder(facts.path)
    return LanguageModel(
        facts=facts,
        tokenizer=tokenizer,
        templates=templates,
        context_length=facts.context_length,
        stop_ids=facts.eos_token_ids,
        output=output_format(templates["default"].source if "default" in templates else ""),
    )


def _from_gguf(path: Path) -> tuple[Tokenizer, dict[str, ChatTemplate]]:
    fields = read_gguf_header(path).fields
    backend = gguf_backend(fields, path)
    special: dict[str, str] = {}
    for name, key in zip(_SPECIAL, ("bos", "eos", "unknown", "padding"), strict=True):
        token = fields.get(f"tokenizer.ggml.{key}_token_id")
        text = None if token is None else backend.id_to_token(int(token))
        if text is not None:
            special[name] = text
    bos = fields.get("tokenizer.ggml.bos_token_id")
    # SentencePiece's models begin with it unless the file says otherwise.
    usual = fields.get("tokenizer.ggml.model") == "llama"
    starts = fields.get("tokenizer.ggml.add_bos_token", usual)
    template = fields.get("tokenizer.chat_template")
    templates = {} if not template else {"default": ChatTemplate(template, special)}
    return Tokenizer(backend, [int(bos)] if starts and bos is not None else []), templates


def _from_folder(path: Path) -> tuple[Tokenizer, dict[str, ChatTemplate]]:
    backend = folder_backend(path)
    config_file = path / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    special = {name: text for name in _SPECIAL if (text := _token_text(config.get(name)))}
    templates = {
        name: ChatTemplate(text, special) for name, text in _folder_templates(path, config).items()
    }
    return Tokenizer(backend), templates


def _token_text(value: Any) -> str:
    """A special token of tokenizer_config.json: its text, or an object that holds it."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _folder_templates(path: Path, config: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    inline = config.get("chat_template")
    if isinstance(inline, str):
        found["default"] = inline
    elif isinstance(inline, list):
        found |= {str(x["name"]): str(x["template"]) for x in inline}
    file = path / "chat_template.jinja"
    if file.is_file():
        found["default"] = file.read_text()
    for extra in sorted((path / "additional_chat_templates").glob("*.jinja")):
        found[extra.stem] = extra.read_text()
    return found
