"""A scripted model behind a real gateway, for client tests that SmolLM2 is too small for.

It calls the function in the request, answers from the result, and writes jokes as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.doubles.gateway_thread import running_gateway
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script, Submitted
from support.models.tiny_model import TEMPLATE, end_id, tiny_tokenizer, write_tiny_model

NAME = "double"
CONTEXT_LENGTH = 16384
TOKENIZER = tiny_tokenizer()
TOOLS_TEMPLATE = "{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATE.replace(
    "message.content + '<|end|>' }}",
    "message.content }}{% for call in message.tool_calls or [] %}{{ '<tool_call>\\n' + "
    "(call.function | tojson) + '\\n</tool_call>' }}{% endfor %}{{ '<|end|>' }}",
    1,
)
JOKE = {"setup": "Why did the cat sit on the Mac?", "punchline": "It was warm."}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "weather": {"city": "Rome"},
    "get_weather": {"location": "San Francisco"},
    "magic_function_no_args": {},
    "magic_function": {"input": 3},
    "greeting_generator": {"answer_style": "Pirate"},
    "my_adder_tool": {"a": 3, "b": 4},
    "unicode_customer": {"customer_name": "你好啊集团 こんにちは", "description": "technology"},
    "Joke": JOKE,
    "PartialJoke": JOKE,
    "IterableJoke": {"tasks": [JOKE, JOKE]},
}
"""Arguments of the model's calls, by function name."""


def reply(prompt: str, grammar: str) -> str:
    """Returns the reply to a prompt.

    Functions that the model must call are in the grammar; others are in the prompt.
    """
    head, *turns = prompt.split("<|begin|>")
    question = turns[-2]
    offered = grammar.replace("\\", "") if "<tool_call>" in grammar else head
    if question.startswith("tool"):
        return "It is sunny in Rome."
    for name, arguments in ARGUMENTS.items():
        if f'"name": "{name}"' in offered:
            call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
            return f"<tool_call>\n{call}\n</tool_call>"
    return json.dumps(JOKE) if "joke" in question else "Hello to you."


def script(submitted: Submitted) -> Script:
    prompt = TOKENIZER.decode(submitted.ids, skip_special=False)
    text = reply(prompt, submitted.submit.sampling.grammar)
    return Script(ids=tuple(TOKENIZER.encode(text, chat=True)), end=end_id())


@contextmanager
def able_model(folder: Path, context_length: int = CONTEXT_LENGTH) -> Generator[str]:
    """Runs the model while the block runs. Yields the URL of its gateway."""
    source = write_tiny_model(folder, TOOLS_TEMPLATE, context_length)
    with (
        ScriptedCluster.running(script, NAME, str(source)) as cluster,
        running_gateway(cluster) as gateway,
    ):
        yield gateway.url
