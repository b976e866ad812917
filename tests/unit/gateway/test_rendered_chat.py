"""Conversations reach the model in a form that its template expresses, to the last word."""

from __future__ import annotations

from typing import Any

import pytest

from pomona.errors import RequestError
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.rendered_chat import render_conversation
from pomona_gateway.text.template_traits import PERMISSIVE, probe_template

CHATML = """
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
REASONING = """
{%- for m in messages %}[{{ m.role }}]
{%- if m.role == 'assistant' %}<think>{{ m.reasoning_content }}</think>{% endif %}
{{- m.content }}<|end|>
{%- endfor %}{% if add_generation_prompt %}[assistant]<think>{% endif %}"""
CHANNELS = """
{%- for m in messages %}<|start|>{{ m.role }}
{%- if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}<|message|>
{{- m.content }}{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}
{%- endfor %}"""
ALTERNATING = """
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}
{{- m.content }}|{% endfor %}"""
USER: dict[str, Any] = {"role": "user", "content": "Count."}
BEGUN: dict[str, Any] = {"role": "assistant", "content": "1, 2, "}


def render(source: str, *messages: dict[str, Any], continue_final: bool = True) -> str:
    template = ChatTemplate(source, {})
    traits = probe_template(template.render)
    return render_conversation(template, traits, {"messages": list(messages)}, continue_final).text


@pytest.mark.parametrize(
    ("source", "end"),
    [
        (CHATML, "<|im_start|>assistant\n1, 2, "),
        (REASONING, "[assistant]<think></think>1, 2, "),
        (CHANNELS, "<|start|>assistant<|message|>1, 2, "),
        (ALTERNATING, "Count.|1, 2, "),
    ],
)
def test_last_assistant_message_is_continued_with_its_spaces(source: str, end: str) -> None:
    assert render(source, USER, BEGUN).endswith(end)


def test_reasoning_of_a_continued_message_stays_before_it() -> None:
    text = render(REASONING, USER, {**BEGUN, "reasoning_content": "Hm."})
    assert text.endswith("<think>Hm.</think>1, 2, ")


def test_message_is_not_continued_when_that_is_not_wanted_or_it_calls() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": {}}}
    assert render(CHATML, USER, BEGUN, continue_final=False).endswith("<|im_start|>assistant\n")
    assert render(CHATML, USER, {**BEGUN, "tool_calls": [call]}).endswith("<|im_start|>assistant\n")
    assert render(CHATML, USER).endswith("<|im_start|>assistant\n")


def test_template_that_leaves_out_the_last_message_is_an_error() -> None:
    with pytest.raises(RequestError, match="leaves out the last message"):
        render(
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", USER, BEGUN
        )


def test_messages_are_rendered_strictly_when_the_adapted_ones_are_rejected() -> None:
    messages = [{"role": "system", "content": "Brief."}, USER, USER]
    template = ChatTemplate(ALTERNATING, {})
    text = render_conversation(template, PERMISSIVE, {"messages": messages}).text
    assert text == "Brief.\n\nCount.\n\nCount.|"


def test_error_of_the_adapted_messages_is_returned_when_both_are_rejected() -> None:
    template = ChatTemplate("{{ raise_exception('saw ' ~ messages | length) }}", {})
    with pytest.raises(RequestError, match="saw 2"):
        render_conversation(template, PERMISSIVE, {"messages": [USER, USER]})


@pytest.mark.parametrize(
    ("source", "mark"), [(CHATML, "<|im_end|>"), (REASONING, "<|end|>"), (CHANNELS, "")]
)
def test_end_of_turn_is_the_text_after_every_assistant_message(source: str, mark: str) -> None:
    assert probe_template(ChatTemplate(source, {}).render).end_of_turn == mark
