"""Reads the chat templates of a model folder, in every form in which they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pomona.errors import ModelError
from pomona.models.formats.safetensors_index import read_json

DEFAULT = "default"
"""Name of the template for chats."""
MAX_TEMPLATE_BYTES = 1 << 20
"""Maximum size of one template. The largest published ones have 50 KB."""
MAX_TEMPLATES = 32


def read_chat_templates(folder: Path) -> dict[str, str]:
    """Returns the chat templates by name.

    They are in ``tokenizer_config.json`` or ``chat_template.json`` under ``chat_template``: a
    text, an object of texts by name, or a list of objects with ``name`` and ``template``. Files
    of the folder (``chat_template.jinja``, ``additional_chat_templates/*.jinja``) override them.

    Raises:
        ModelError: a template cannot be read; names the file.
    """
    found: dict[str, str] = {}
    for name in ("tokenizer_config.json", "chat_template.json"):
        file = folder / name
        if file.is_file():
            found |= _templates(read_json(file).get("chat_template"), file)
    file = folder / "chat_template.jinja"
    if file.is_file():
        found[DEFAULT] = read_text(file)
    for extra in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[extra.stem] = read_text(extra)
    if len(found) > MAX_TEMPLATES:
        raise ModelError(f"{folder} has {len(found)} chat templates, more than {MAX_TEMPLATES}")
    return found


def read_text(file: Path) -> str:
    """Reads a file of UTF-8. Raises ModelError naming the file when it is not."""
    try:
        if file.stat().st_size > MAX_TEMPLATE_BYTES:
            raise ModelError(f"{file} has more than {MAX_TEMPLATE_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} cannot be read as UTF-8: {error}; fetch it again") from error


def _templates(value: Any, file: Path) -> dict[str, str]:
    match value:
        case None:
            return {}
        case str():
            return {DEFAULT: value}
        case dict():
            named = list(cast("dict[str, Any]", value).items())
        case list():
            named = [_named(x) for x in cast("list[Any]", value)]
        case _:
            named = [("", value)]
    for name, template in named:
        if isinstance(template, str) and len(template) > MAX_TEMPLATE_BYTES:
            raise ModelError(f"{file} has a chat_template of more than {MAX_TEMPLATE_BYTES} bytes")
        if not isinstance(name, str) or not name or not isinstance(template, str):
            raise ModelError(
                f"{file} has a chat_template that is not a text, nor texts by name, nor a list of "
                "objects with name and template; correct it or fetch it again"
            )
    return dict(named)


def _named(entry: Any) -> tuple[Any, Any]:
    if not isinstance(entry, dict):
        return "", entry
    fields = cast("dict[str, Any]", entry)
    return fields.get("name"), fields.get("template")
