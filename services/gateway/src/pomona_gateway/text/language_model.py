"""Language models: tokenizer, chat templates and limits, read from a model's files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pomona.errors import RequestError
from pomona.models import ModelFacts, read_facts
from pomona.models.formats.chat_templates import read_chat_templates
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.hf_folder import read_json
from pomona_gateway.parsers.derivation.known_notations import with_vocabulary
from pomona_gateway.parsers.notation import ReplyNotation
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.notation_process import load_notation
from pomona_gateway.text.prompter import Prompter
from pomona_gateway.text.system_lines import DEFAULT_LINES, SystemLines
from pomona_gateway.text.template_traits import PERMISSIVE, TemplateTraits
from pomona_gateway.text.tokenizer import Tokenizer, read_tokenizer

log = logging.getLogger(__name__)

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """The text side of one model.

    Attributes:
        templates: chat templates by name; ``default`` is for chats.
        context_length: maximum tokens of prompt and reply together.
        stop_ids: tokens that end a reply.
        output: notation of reasoning and tool calls in replies.
        prompter: makes prompts in a process of its own.
        traits: conversations that each template can express, by the template's name.
        system_lines: lines of system messages that differ at each request.
    """

    facts: ModelFacts
    tokenizer: Tokenizer
    templates: dict[str, ChatTemplate]
    context_length: int
    stop_ids: tuple[int, ...]
    output: ReplyNotation
    prompter: Prompter
    traits: Mapping[str, TemplateTraits] = field(default_factory=dict[str, TemplateTraits])
    system_lines: SystemLines = DEFAULT_LINES

    def template_for(self, tools: bool) -> str:
        """Returns the name of the chat template for conversations with or without tools."""
        return "tool_use" if tools and "tool_use" in self.templates else "default"

    def traits_of(self, template: str) -> TemplateTraits:
        """Returns what a template can express; everything when it was not probed."""
        return self.traits.get(template, PERMISSIVE)


def load_language_model(source: str, system_lines: SystemLines = DEFAULT_LINES) -> LanguageModel:
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
    output = ReplyNotation() if template is None else load_notation(template)
    return LanguageModel(
        facts=facts,
        tokenizer=tokenizer,
        templates=templates,
        context_length=facts.context_length,
        stop_ids=_end_tokens(facts, tokenizer),
        output=with_vocabulary(output, tokenizer.special_tokens),
        prompter=Prompter(facts.path),
        system_lines=system_lines,
    )


def _end_tokens(facts: ModelFacts, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns the end tokens of the model's configurations and of its tokenizer."""
    config_file = facts.path / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    own = tokenizer.added_id(_token_text(config.get("eos_token")))
    return tuple(dict.fromkeys([*facts.eos_token_ids, *([] if own is None else [own])]))


def probe_language_model(model: LanguageModel) -> LanguageModel:
    """Starts the model's prompt process and probes its chat templates. Blocks.

    Returns:
        The model with the traits of its templates and with their end-of-turn marks among
        ``stop_ids``. A template that exceeds the deadline is taken to express everything.
    """
    traits: dict[str, TemplateTraits] = {}
    for name, template in model.templates.items():
        try:
            traits[name] = model.prompter.probe(template)
        except RequestError as error:
            reason = {"model": model.facts.name, "template": name, "reason": str(error)}
            log.warning("cannot probe a chat template", extra=reason)
    model.prompter.start()
    ends = {model.tokenizer.added_id(found.end_of_turn) for found in traits.values()} - {None}
    stop_ids = tuple(dict.fromkeys([*model.stop_ids, *sorted(x for x in ends if x is not None)]))
    return replace(model, traits=traits, stop_ids=stop_ids)


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
    sources = read_chat_templates(path)
    return {name: ChatTemplate(text, special) for name, text in sources.items()}


def _token_text(value: Any) -> str:
    """Returns the text of a special token in tokenizer_config.json: a string or an object."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")
