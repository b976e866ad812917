"""``python -m pomona_gateway.text.model_process SOURCE PATH``: reads a model's files.

The files come from the model's maker, and a large tokenizer takes seconds in which no other
thread of its process runs. They are read in a process with a deadline and a memory limit. Its
output is a line of JSON, either a description or an error, and then the vocabulary: the ends of
the names as uint32, and the names.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pomona.errors import ModelError, ModelNotFoundError, ModelUnsupportedError, PomonaError
from pomona.models import ModelFacts, read_facts
from pomona.models.formats.chat_templates import read_chat_templates
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.hf_folder import read_json
from pomona.plain_text import plain_text
from pomona_gateway.module_command import module_command
from pomona_gateway.text.prompt_process import limit_memory
from pomona_gateway.text.tokenizer import Tokenizer, read_tokenizer
from pomona_gateway.text.vocabulary import VocabularyTable

DEADLINE_S = 60.0
"""For all files of a model. The largest tokenizers take a few seconds."""
GRACE_S = 10.0
"""Additional time for the process to start."""
MAX_BYTES = 3 << 30
"""Memory that the files may take while they are read, in bytes. macOS does not enforce it."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_ERRORS = {kind.__name__: kind for kind in (ModelNotFoundError, ModelUnsupportedError)}


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Contents of a model's files that a gateway needs.

    Attributes:
        templates: sources of the chat templates, by name.
        special_texts: texts of the special tokens that templates use, by their variable.
        eos_token: text of the tokenizer's end token; empty when it names none.
        table: the vocabulary.
    """

    facts: ModelFacts
    templates: Mapping[str, str]
    special_texts: Mapping[str, str]
    eos_token: str
    table: VocabularyTable


_DESCRIPTION = TypeAdapter(ModelDescription)


def describe_model(source: str, path: Path) -> ModelDescription:
    """Reads a model's files in a process. Blocks.

    Args:
        path: the folder or GGUF file of ``source``.

    Raises:
        ModelError: a file is missing or invalid, or takes too long or too much memory to read.
    """
    command = module_command("text.model_process", source, str(path))
    limits = (
        f"the files of {path} took longer than {DEADLINE_S:g} s or more than "
        f"{MAX_BYTES >> 30} GB of memory to read"
    )
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=DEADLINE_S + GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(limits) from error
    line, _, binary = done.stdout.partition(b"\n")
    if done.returncode != 0 or not line:
        raise ModelError(limits)
    content = json.loads(line)
    if "error" in content:
        raise _ERRORS.get(content["kind"], ModelError)(content["error"])
    names_at = content.pop("names_at")
    description = _DESCRIPTION.validate_python(content)
    table = replace(description.table, ends=binary[:names_at], names=binary[names_at:])
    return replace(description, table=table)


def _describe(source: str, path: Path) -> ModelDescription:
    facts = read_facts(source)
    tokenizer = read_tokenizer(path)
    if facts.format == "gguf":
        return _describe_gguf(facts, tokenizer)
    file = path / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    return ModelDescription(
        facts=facts,
        templates=read_chat_templates(path),
        special_texts={name: text for name in SPECIAL if (text := _token_text(config.get(name)))},
        eos_token=_token_text(config.get("eos_token")),
        table=tokenizer.table,
    )


def _describe_gguf(facts: ModelFacts, tokenizer: Tokenizer) -> ModelDescription:
    fields = read_gguf_header(facts.path).fields
    template = fields.get("tokenizer.chat_template")
    special: dict[str, str] = {}
    for name, key in zip(SPECIAL, ("bos", "eos", "unknown", "padding"), strict=True):
        token = fields.get(f"tokenizer.ggml.{key}_token_id")
        text = tokenizer.name(token) if isinstance(token, int) else None
        if text is not None:
            special[name] = text
    templates = {"default": template} if isinstance(template, str) and template else {}
    return ModelDescription(facts, templates, special, "", tokenizer.table)


def _token_text(value: Any) -> str:
    """Returns the text of a special token in tokenizer_config.json: a string or an object."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    limit_memory(MAX_BYTES)
    source, path = sys.argv[1:]
    output = sys.stdout.buffer
    try:
        found = _describe(source, Path(path))
    except MemoryError:
        raise SystemExit(1) from None
    except Exception as error:  # libraries raise anything while they read a model's files
        reason = str(error)
        if not isinstance(error, PomonaError):
            reason = f"the files of {path} cannot be read: {type(error).__name__}: {reason}"
        answer = {"error": plain_text(reason), "kind": type(error).__name__}
        output.write(json.dumps(answer).encode() + b"\n")
        return
    table = found.table
    plain = replace(found, table=replace(table, ends=b"", names=b""))
    content = {**_DESCRIPTION.dump_python(plain, mode="json"), "names_at": len(table.ends)}
    output.write(json.dumps(content).encode() + b"\n" + table.ends + table.names)
    output.flush()


if __name__ == "__main__":
    _main()
