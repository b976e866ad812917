"""The file of a run: one line for each event, in the order of the events. Pure.

Each line is a JSON object with a checksum (:mod:`~pomona_gateway.runs.checked_lines`). Reading
ends at the first line that is cut off or damaged; the lines before are used. Objects by their
first key:

- ``run``: the origin of the run. The first line.
- ``owner``: boot id of the gateway that executes the run from here on.
- ``open``: number of a choice; model, prompt, sampling and queue policy of its sequence.
- ``cached``: number of a choice, and its prompt tokens found in the prefix cache.
- ``tokens``: number of a choice, id, and what else is known of each token.
- ``end``: status, headers and parts of the whole response.
"""

from __future__ import annotations

import base64
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from pomona.errors import ProtocolError
from pomona.messages.pipeline import FinishReason, Token
from pomona.messages.sampling import Sampling
from pomona.queue_policy import QueuePolicy
from pomona_gateway.pipeline.instructions import SequenceRequest
from pomona_gateway.runs.checked_lines import decode_line, encode_line
from pomona_gateway.runs.run import RecordedSequences, RunOrigin, RunRequest

VERSION = 1
MAX_INFLATED_BYTES = 256 << 20

_SAMPLING = TypeAdapter(Sampling)


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """A whole response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    parts: list[bytes]


@dataclass(slots=True)
class RunFile:
    """Content of the file of one run.

    Attributes:
        owner: boot id of the gateway that executes the run, or did.
        response: None while the run has not ended.
        size: length in bytes of the lines that could be read.
    """

    origin: RunOrigin
    owner: str
    sequences: RecordedSequences = field(default_factory=RecordedSequences)
    response: RecordedResponse | None = None
    size: int = 0


def encode_origin(origin: RunOrigin, owner: str) -> bytes:
    """Encodes the first lines."""
    fields = asdict(origin)
    fields["request"]["body"] = base64.b64encode(origin.request.body).decode()
    return encode_line({"run": VERSION, **fields}) + encode_owner(owner)


def encode_owner(owner: str) -> bytes:
    return encode_line({"owner": owner})


def encode_sequence(index: int, sequence: SequenceRequest) -> bytes:
    return encode_line(
        {
            "open": index,
            "model": sequence.model,
            "prompt": base64.b64encode(sequence.prompt.tobytes()).decode(),
            "sampling": _SAMPLING.dump_python(sequence.sampling, mode="json"),
            "queue": asdict(sequence.queue),
        }
    )


def encode_cached(index: int, tokens: int) -> bytes:
    return encode_line({"cached": [index, tokens]})


def encode_tokens(tokens: Sequence[tuple[int, Token]]) -> bytes:
    return encode_line({"tokens": [_token_fields(index, token) for index, token in tokens]})


def encode_response(response: RecordedResponse) -> bytes:
    """Encodes the end of a run. The parts of a reply repeat much, so they are compressed."""
    packed = zlib.compress(b"".join(response.parts), 1)
    return encode_line(
        {
            "end": response.status,
            "headers": [[name.decode("latin-1"), x.decode("latin-1")] for name, x in
                        response.headers],
            "sizes": [len(part) for part in response.parts],
            "parts": base64.b64encode(packed).decode(),
        }
    )  # fmt: skip


def decode_run_file(content: bytes) -> RunFile:
    """Decodes the readable part of a file. Raises ProtocolError when not even its origin is."""
    found: RunFile | None = None
    size = 0
    for line in content.splitlines(keepends=True):
        fields = decode_line(line)
        if fields is None:
            break
        try:
            if found is None:
                found = RunFile(_origin(fields), "")
            else:
                _add(found, fields)
        except (KeyError, TypeError, ValueError, ValidationError, zlib.error) as error:
            if found is None:
                raise ProtocolError(f"the origin of a run cannot be read: {error!r}") from error
            break
        size += len(line)
    if found is None:
        raise ProtocolError("the file of a run has no readable line")
    found.size = size
    return found


def _origin(fields: dict[str, Any]) -> RunOrigin:
    if fields.pop("run") != VERSION:
        raise ValueError("another version")
    request = fields.pop("request")
    return RunOrigin(
        **fields,
        request=RunRequest(
            path=request["path"],
            query=request["query"],
            headers=tuple((name, value) for name, value in request["headers"]),
            body=base64.b64decode(request["body"]),
        ),
    )


def _add(found: RunFile, fields: dict[str, Any]) -> None:
    sequences = found.sequences
    match fields:
        case {"owner": str(owner)}:
            found.owner = owner
        case {"open": int(index), "model": str(model)}:
            prompt = array("i", base64.b64decode(fields["prompt"]))
            sampling = _SAMPLING.validate_python(fields["sampling"])
            queue = QueuePolicy(**fields["queue"])
            sequences.sequences[index] = SequenceRequest(model, prompt, sampling, queue)
        case {"cached": [int(index), int(tokens)]}:
            sequences.cached[index] = tokens
        case {"tokens": list(tokens)}:
            sequences.tokens += [_token(x) for x in cast("list[list[Any]]", tokens)]
        case {"end": int(status)}:
            found.response = _response(status, fields)
        case _:
            raise ValueError("an unknown line")


def _token_fields(index: int, token: Token) -> list[Any]:
    fields: list[Any] = [index, token.index, token.token, token.finish, token.logprob, token.top]
    while len(fields) > 3 and fields[-1] in (None, ()):
        fields.pop()
    return fields


def _token(fields: list[Any]) -> tuple[int, Token]:
    index, number, token = fields[:3]
    finish, logprob, top = [*fields[3:], None, None, None][:3]
    tops = tuple((int(i), float(x)) for i, x in top or ())
    return index, Token("", 0, number, token, cast("FinishReason | None", finish), logprob, tops)


def _response(status: int, fields: dict[str, Any]) -> RecordedResponse:
    inflate = zlib.decompressobj()
    content = inflate.decompress(base64.b64decode(fields["parts"]), MAX_INFLATED_BYTES)
    parts: list[bytes] = []
    begin = 0
    for size in cast("list[int]", fields["sizes"]):
        parts.append(content[begin : begin + size])
        begin += size
    if begin != len(content):
        raise ValueError("parts and sizes differ")
    headers = [(str(name).encode("latin-1"), str(x).encode("latin-1"))
               for name, x in cast("list[list[str]]", fields["headers"])]  # fmt: skip
    return RecordedResponse(status, headers, parts)
