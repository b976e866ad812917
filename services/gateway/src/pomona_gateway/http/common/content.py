"""The content of a message: a text, or parts of several types, in OpenAI's dialects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from pomona.errors import RequestError
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.http.request_body import Body

MAX_PARTS = 4096


class TextPart(Body):
    hints = frozenset({"cache_control", "annotations", "logprobs", "prompt_cache_breakpoint"})

    type: Literal["text", "input_text", "output_text", "summary_text", "refusal"] = "text"
    text: str | None = None
    refusal: str | None = None


class ThinkingPart(Body):
    hints = frozenset({"signature", "closed"})

    type: Literal["thinking", "reasoning", "reasoning_text"]
    thinking: str | list[TextPart] | None = None
    text: str | None = None


class MediaPart(Body):
    type: Literal[
        "image_url", "input_image", "image", "image_file",
        "input_audio", "audio", "audio_url", "video", "video_url", "input_video",
        "file", "input_file", "document",
    ]  # fmt: skip


class OtherPart(Body):
    left_out = True

    type: str


_TEXT_TYPES = ("text", "input_text", "output_text", "summary_text", "refusal")
_THINKING_TYPES = ("thinking", "reasoning", "reasoning_text")
_MEDIA = {
    "image_url": "images", "input_image": "images", "image": "images", "image_file": "images",
    "input_audio": "audio", "audio": "audio", "audio_url": "audio",
    "video": "videos", "video_url": "videos", "input_video": "videos",
    "file": "files", "input_file": "files", "document": "documents",
}  # fmt: skip


def type_of(value: Any, default: str) -> str:
    """Returns the ``type`` of an object of a request, for a discriminator."""
    if isinstance(value, dict):
        fields = cast("Mapping[str, Any]", value)
        given = fields.get("type")
        return default if given is None else str(given)
    return str(getattr(value, "type", default))


def _part_kind(part: Any) -> str:
    if isinstance(part, str):
        return "string"
    part_type = type_of(part, "text")
    if part_type in _TEXT_TYPES:
        return "text"
    if part_type in _THINKING_TYPES:
        return "thinking"
    return "media" if part_type in _MEDIA else "other"


Part = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[TextPart, Tag("text")]
    | Annotated[ThinkingPart, Tag("thinking")]
    | Annotated[MediaPart, Tag("media")]
    | Annotated[OtherPart, Tag("other")],
    Discriminator(_part_kind),
]
Parts = Annotated[list[Part], Field(fail_fast=True, max_length=MAX_PARTS)]
Content = str | Parts


@dataclass(frozen=True, slots=True)
class ReadContent:
    """Text of a content, and its reasoning if the model wrote it."""

    text: str
    reasoning: str = ""


def read_content(
    content: Content | None, where: str, ignored: IgnoredParameters, is_result: bool = False
) -> ReadContent:
    """Joins the parts of a content.

    Args:
        where: parameter that holds the content.
        is_result: the content is a tool's result: images and files beside a text are left out
            and noted in ``ignored``.

    Raises RequestError for an image or a file that the model would have to read.
    """
    if content is None or isinstance(content, str):
        return ReadContent(content or "")
    texts: list[str] = []
    reasoning: list[str] = []
    media: list[tuple[str, str]] = []
    for index, part in enumerate(content):
        match part:
            case str():
                texts.append(part)
            case TextPart():
                texts.append(part.text or part.refusal or "")
            case ThinkingPart():
                reasoning.append(_thinking(part))
            case MediaPart(type=part_type):
                media.append((f"{where}[{index}]", part_type))
            case OtherPart():
                pass
    text = "".join(texts)
    for place, part_type in media:
        leave_out_media(place, part_type, ignored, is_result and bool(text))
    return ReadContent(text, "".join(reasoning))


def leave_out_media(
    where: str, part_type: str, ignored: IgnoredParameters, may_leave_out: bool
) -> None:
    """Notes an image or file that is left out. Raises RequestError where it may not be."""
    if not may_leave_out:
        kind = _MEDIA.get(part_type, "files")
        raise RequestError(
            400,
            "content_not_supported",
            f"invalid {where!r}: this model reads no {kind}, only text; leave out the {part_type} "
            "part",
            where,
        )
    ignored.add(f"{where}.{part_type}")


def _thinking(part: ThinkingPart) -> str:
    if isinstance(part.thinking, list):
        return "".join(inner.text or "" for inner in part.thinking)
    return part.thinking or part.text or ""
