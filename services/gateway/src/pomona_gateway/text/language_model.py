"""Language models: tokenizer, chat templates and limits, read from a model's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomona.models import ModelFacts, read_facts
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.hf_folder import read_json
from pomona_gateway.parsers.notation import ReplyNotation
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.notation_process import load_notation
from pomona_gateway.text.prompter import Prompter
from pomona_gateway.text.tokenizer import Tokenizer, read_tokenizer

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """The text side of one model.

    Attributes:
        templates: chat templates by name; ``default`` is the one for chats.
        context_length: maximum tokens of prompt and reply together.
        stop_ids: tokens that end a reply.
        output: notation of reasoning and tool calls in replies.
        prompter: makes prompts in a process of its own.
    """

    facts: ModelFacts
    tokenizer: Tokenizer
    templates: dict[str, ChatTemplate]
    context_length: int
    stop_ids: tuple[int, ...]
    output: ReplyNotation
    prompter: Prompter


def load_language_model(source: str) -> LanguageModel:
    """Loads a model's tokenizer and chat templates, in a second or two.

    Raises:
        ModelError: a file of the model is missing or invalid.
    """
    facts = read_facts(source)
    tokenizer = read_tokenizer(facts.path)
    if facts.format == "gguf":
        templates = _gguf_templates(facts.path, tokenizer)
    else:
        templates = _folder_templates(facts.path)
    template = templates.get("tool_use", templates.get("default"))
    return LanguageModel(
        facts=facts,
        tokenizer=tokenizer,
        templates=templates,
        context_length=facts.context_length,
        stop_ids=facts.eos_token_ids,
        output=ReplyNotation() if template is None else load_notation(template),
        prompter=Prompter(facts.path),
    )


def _gguf_templates(path: Path, tokenizer: Tokenizer) -> dict[str, ChatTemplate]:
    fields = read_gguf_header(path).fields
    template = fields.get("tokenizer.chat_template")
    special: dict[str, str] = {}
    for name, key in zip(_SPECIAL, ("bos", "eos", "unknown", "padding"), strict=True):
        token = fields.get(f"tokenizer.ggml.{key}_token_id")
        text = None if token is None else tokenizer.name(int(token))
        if text is not None:
            special[name] = text
    return {} if not template else {"default": ChatTemplate(template, special)}


def _folder_templates(path: Path) -> dict[str, ChatTemplate]:
    config_file = path / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    special = {name: text for name in _SPECIAL if (text := _token_text(config.get(name)))}
    sources = _template_sources(path, config)
    return {name: ChatTemplate(text, special) for name, text in sources.items()}


def _token_text(value: Any) -> str:
    """Returns the text of a special token in tokenizer_config.json: a string or an object."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _template_sources(path: Path, config: dict[str, Any]) -> dict[str, str]:
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
