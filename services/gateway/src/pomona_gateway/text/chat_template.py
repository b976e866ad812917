"""Chat templates: Jinja templates that render messages as a model's prompt.

The environment has the features of Hugging Face's
(https://huggingface.co/docs/transformers/chat_templating_writing): block trimming,
``raise_exception``, ``strftime_now``, ``tojson`` that keeps Unicode, ``break`` and
``continue``, and ``generation`` blocks. It is sandboxed, since templates come with models.
Unlike Hugging Face's it lets templates change lists of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import datetime
from functools import cached_property
from typing import Any, cast

from jinja2 import Template, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from pomona.errors import ModelUnsupportedError, RequestError

RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
"""Template variables that ``chat_template_kwargs`` must not set."""


_CHANGES = re.compile(
    r"\.(?:append|pop|update|insert|extend|remove|clear|setdefault|sort|reverse)\b"
)


_TOOLS = re.compile(r"\btools\b")


class _Generation(Extension):
    """Ignores ``{% generation %}``, which marks assistant text for training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares tags this way

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_without_undefined,
    )


def _without_undefined(value: Any) -> None:
    """Writes a variable without a value, like a missing description, as ``null``."""
    if isinstance(value, Undefined):
        return
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _with_parts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    name = {"name": message["name"]} if isinstance(message.get("name"), str) else {}
    return {**message, "content": [{"type": "text", "text": content, **name}]}


def _defaults(source: str, tools: Sequence[Mapping[str, Any]] | None) -> dict[str, str]:
    """Returns variables that some templates use without a test of whether they are defined.

    ``functions`` and ``datetime`` are those of FireFunction
    (https://huggingface.co/fireworks-ai/llama-3-firefunction-v2).
    """
    defaults = {"bos_token": "", "eos_token": ""}
    if "functions" in source and not _TOOLS.search(source):
        functions = [tool.get("function", tool) for tool in tools or ()]
        defaults |= {"functions": _to_json(functions), "datetime": _now("%A, %B %d, %Y")}
    return defaults


class ChatTemplate:
    """A model's chat template.

    It is compiled at the first rendering, because compiling evaluates constant expressions,
    which may take long.

    Raises:
        ModelUnsupportedError: the template is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = SandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        names = cast("dict[str, Any]", environment.globals)
        names |= {"raise_exception": _raise, "strftime_now": _now}
        self.source = source
        self._environment = environment
        self.special_tokens = dict(special_tokens)
        try:
            environment.parse(source)
        except TemplateSyntaxError as error:
            raise ModelUnsupportedError(
                f"the model's chat template is invalid in line {error.lineno}: {error.message}"
            ) from error
        except RecursionError as error:
            raise ModelUnsupportedError("the model's chat template is nested too deeply") from error

    @cached_property
    def _template(self) -> Template:
        return self._environment.from_string(self.source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Renders a prompt.

        Raises:
            RequestError: the template rejects the messages.
        """
        try:
            return self._render(messages, tools, add_generation_prompt, variables)
        except RequestError:
            # Templates of models that see images may read content only as a list of parts.
            if "'text'" not in self.source and '"text"' not in self.source:
                raise
            parts = [_with_parts(message) for message in messages]
            with suppress(RequestError):
                return self._render(parts, tools, add_generation_prompt, variables)
            raise

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        if _CHANGES.search(self.source):
            messages, tools = deepcopy(messages), deepcopy(tools)
        try:
            text = self._template.render(
                **{
                    **_defaults(self.source, tools),
                    **self.special_tokens,
                    **variables,
                    "messages": messages,
                    "tools": tools or None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
            text.encode()  # Rejects lone surrogates.
            return text
        except TemplateError as error:
            reason = str(error)
        except (
            *(TypeError, ValueError, KeyError, AttributeError),
            *(OverflowError, RecursionError, MemoryError),
        ) as error:
            reason = f"{type(error).__name__}: {error}"
        raise RequestError(
            400,
            "invalid_messages",
            f"the model's chat template rejects these messages: {reason}",
            "messages",
        )
