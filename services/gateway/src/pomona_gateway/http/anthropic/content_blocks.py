"""Content blocks of Anthropic's messages, and their conversion to what chat templates read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pomona_gateway.http.common.chat_messages import (
    Arguments,
    CallId,
    FunctionName,
    template_call,
)
from pomona_gateway.http.common.content import leave_out_media, type_of
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.http.request_body import Body

MAX_BLOCKS = 4096


class Block(Body):
    hints = frozenset({"cache_control", "citations", "caller", "title", "context"})


class TextBlock(Block):
    type: Literal["text"] = "text"
    text: str | None


class ThinkingBlock(Block):
    hints = Block.hints | {"signature"}

    type: Literal["thinking"]
    thinking: str | None


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: CallId
    name: FunctionName
    input: Arguments = None


class InnerMediaBlock(Block):
    """An image or document inside a document or a search result. It cannot be read."""

    hints = Block.hints | {"source"}

    type: Literal["image", "document"]


class OtherBlock(Body):
    """A block of a tool that only Anthropic's server runs, or of a type that is not known."""

    left_out = True

    type: str


_KINDS = {
    "text": "text", "thinking": "thinking", "tool_use": "tool_use", "image": "media",
    "document": "media", "search_result": "search_result", "tool_result": "tool_result",
}  # fmt: skip


def _kind_among(*kinds: str) -> Discriminator:
    """Returns a discriminator that gives ``other`` for blocks that may not stand at this place."""

    def kind(block: Any) -> str:
        if isinstance(block, str):
            return "string"
        found = _KINDS.get(type_of(block, "text"), "other")
        return found if found in kinds else "other"

    return Discriminator(kind)


# Content nests to a fixed depth, as Anthropic documents it, so that its schema is not recursive:
# a turn has tool results, which have documents and search results, which have texts.
InnerBlock = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[TextBlock, Tag("text")]
    | Annotated[InnerMediaBlock, Tag("media")]
    | Annotated[OtherBlock, Tag("other")],
    _kind_among("text", "media"),
]
InnerContent = (
    str | Annotated[list[InnerBlock], Field(fail_fast=True, max_length=MAX_BLOCKS)] | None
)


class Source(Body):
    hints = frozenset({"media_type"})

    type: str | None = None
    data: Any = None
    content: InnerContent = None


class MediaBlock(Block):
    """An image, or a document. Only a document that is text can be read."""

    type: Literal["image", "document"]
    source: Source | None = None


class SearchResultBlock(Block):
    type: Literal["search_result"]
    source: str | None = None
    content: InnerContent = None


ResultBlock = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[TextBlock, Tag("text")]
    | Annotated[MediaBlock, Tag("media")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[OtherBlock, Tag("other")],
    _kind_among("text", "media", "search_result"),
]
ResultContent = (
    str | Annotated[list[ResultBlock], Field(fail_fast=True, max_length=MAX_BLOCKS)] | None
)


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: CallId
    content: ResultContent = None
    is_error: bool | None = None


AnyBlock = (
    str
    | TextBlock
    | ThinkingBlock
    | ToolUseBlock
    | InnerMediaBlock
    | MediaBlock
    | SearchResultBlock
    | ToolResultBlock
    | OtherBlock
)
TurnBlock = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[MediaBlock, Tag("media")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[OtherBlock, Tag("other")],
    _kind_among("text", "thinking", "tool_use", "media", "search_result", "tool_result"),
]
TurnContent = str | Annotated[list[TurnBlock], Field(fail_fast=True, max_length=MAX_BLOCKS)] | None


def block_text(
    content: str | Sequence[AnyBlock] | None,
    where: str,
    ignored: IgnoredParameters,
    is_result: bool = False,
) -> str:
    """Joins the texts of a content.

    Args:
        where: parameter that holds the content.
        is_result: the content is a tool's result: images beside a text are left out and noted
            in ``ignored``.

    Raises RequestError for an image or document that the model would have to read.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    unread: list[tuple[str, str]] = []
    for index, block in enumerate(content):
        place = f"{where}[{index}]"
        match block:
            case str():
                texts.append(block)
            case TextBlock(text=text):
                texts.append(text or "")
            case SearchResultBlock(content=inner):
                texts.append(block_text(inner, f"{place}.content", ignored))
            case InnerMediaBlock(type=kind):
                unread.append((place, kind))
            case MediaBlock(type=kind, source=source):
                if kind == "document" and source is not None and source.type == "text":
                    texts.append(str(source.data or ""))
                elif kind == "document" and source is not None and source.type == "content":
                    inner_where = f"{place}.source.content"
                    texts.append(block_text(source.content, inner_where, ignored, is_result))
                else:
                    unread.append((place, kind))
            case _:
                pass
    text = "".join(texts)
    for place, kind in unread:
        leave_out_media(place, kind, ignored, is_result and bool(text))
    return text


def user_messages(
    blocks: Sequence[AnyBlock], where: str, ignored: IgnoredParameters
) -> list[dict[str, Any]]:
    """Converts a user turn to tool results and at most one user message."""
    results: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        if isinstance(block, ToolResultBlock):
            place = f"{where}[{index}].content"
            text = block_text(block.content, place, ignored, is_result=True)
            text = f"Error: {text}" if block.is_error else text
            results.append({"role": "tool", "content": text, "tool_call_id": block.tool_use_id})
    text = block_text(blocks, where, ignored)
    has_words = any(not isinstance(block, ToolResultBlock) for block in blocks)
    if results and (not text or not has_words):
        return results
    return [*results, {"role": "user", "content": text}]


def assistant_message(
    blocks: Sequence[AnyBlock], where: str, ignored: IgnoredParameters
) -> dict[str, Any]:
    """Converts an assistant turn."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": block_text(blocks, where, ignored),
    }
    for block in blocks:
        match block:
            case ThinkingBlock(thinking=thinking):
                earlier = message.get("reasoning_content", "")
                message["reasoning_content"] = earlier + (thinking or "")
            case ToolUseBlock(id=call_id, name=name, input=arguments):
                call = template_call(call_id, name, arguments)
                message.setdefault("tool_calls", []).append(call)
            case _:
                pass
    return message
