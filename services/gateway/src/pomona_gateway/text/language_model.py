"""Language models: tokenizer, chat templates and limits, read from a model's files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pomona.errors import RequestError
from pomona.models import ModelFacts, resolve
from pomona_gateway.parsers.derivation.known_notations import with_vocabulary
from pomona_gateway.parsers.notation import ReplyNotation
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.limits import TextLimit
from pomona_gateway.text.model_process import describe_model
from pomona_gateway.text.notation_process import load_notation
from pomona_gateway.text.prompter import Prompter
from pomona_gateway.text.system_lines import DEFAULT_LINES, SystemLines
from pomona_gateway.text.template_traits import PERMISSIVE, TemplateTraits
from pomona_gateway.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


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
    tokenizer: Vocabulary
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

    def text_limit(self, parameter: str) -> TextLimit:
        """Returns the longest text that may fit the context.

        Args:
            parameter: request parameter that holds the text.
        """
        return TextLimit(self.context_length, self.tokenizer.longest, parameter)

    def traits_of(self, template: str) -> TemplateTraits:
        """Returns what a template can express; everything when it was not probed."""
        return self.traits.get(template, PERMISSIVE)


def load_language_model(source: str, system_lines: SystemLines = DEFAULT_LINES) -> LanguageModel:
    """Loads a model's vocabulary and chat templates from a process that reads its files.

    Raises:
        ModelError: a file of the model is missing or invalid, or takes too long or too much
            memory to read.
    """
    path = resolve(source)  # fetches the small files of a model on the hub
    description = describe_model(source, path)
    facts = description.facts
    templates = {
        name: ChatTemplate(text, description.special_texts)
        for name, text in description.templates.items()
    }
    template = templates.get("tool_use", templates.get("default"))
    output = ReplyNotation() if template is None else load_notation(template)
    vocabulary = Vocabulary(description.table)
    ends = (*facts.eos_token_ids, vocabulary.added_id(description.eos_token))
    return LanguageModel(
        facts=facts,
        tokenizer=vocabulary,
        templates=templates,
        context_length=facts.context_length,
        # A token beyond the vocabulary is never sampled, and no message can name it.
        stop_ids=tuple(dict.fromkeys(x for x in ends if x is not None and x < facts.vocab_size)),
        output=with_vocabulary(output, vocabulary.special_tokens),
        prompter=Prompter(facts.path),
        system_lines=system_lines,
    )


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
