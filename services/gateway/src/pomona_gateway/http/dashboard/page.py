"""The page at ``/`` and its files, which every browser gets without a key: they hold no data."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from pomona.errors import RequestError
from pomona_gateway.http.ollama.models import root

FOLDER = "/dashboard/"
"""Path of the page's files."""
INDEX = "index.html"
MEDIA_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_COMMENTS = re.compile(rb"^[ \t]*/\*\*(?:(?!\*/).)*\*/[ \t]*\n", re.MULTILINE | re.DOTALL)
"""Comments for people and for tsc that stand on lines of their own."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content security policy: nothing inline, nothing from elsewhere
(https://www.w3.org/TR/CSP3/)."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page.

    Attributes:
        packed: content in gzip.
        tag: entity tag, which changes with the content.
    """

    content: bytes
    packed: bytes
    media_type: str
    tag: str


def is_page_request(scope: Scope) -> bool:
    """Tests whether a request is for the page or one of its files."""
    if scope["method"] not in ("GET", "HEAD"):
        return False
    path: str = scope["path"]
    return path.startswith(FOLDER) or (path == "/" and _wants_page(Headers(scope=scope)))


def _wants_page(headers: Headers) -> bool:
    return "text/html" in headers.get("accept", "")


async def root_page(request: Request) -> Response:
    """Returns the page to browsers, and a text or JSON to other clients."""
    if _wants_page(request.headers):
        response = _respond(request, page_files()[INDEX])
    else:
        response = await root(request)
    response.headers["vary"] = "accept, accept-encoding"
    return response


async def page_file(request: Request) -> Response:
    """Returns a file of the page."""
    name: str = request.path_params["file"]
    found = page_files().get(name)
    if found is None:
        raise RequestError(404, "not_found", f"there is no {request.method} {request.url.path}")
    return _respond(request, found)


def _respond(request: Request, file: File) -> Response:
    packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        # The page of a newer version must not run with files of an older one.
        "cache-control": "no-cache",
        "etag": file.tag,
        "vary": "accept-encoding",
    }
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    if packed:
        headers["content-encoding"] = "gzip"
    return Response(
        file.packed if packed else file.content, headers=headers, media_type=file.media_type
    )


@cache
def page_files() -> dict[str, File]:
    """Reads the page's files once, by their paths below ``FOLDER``."""
    found: dict[str, File] = {}
    top = files("pomona_gateway.dashboard") / "static"
    folders = [("", top)]
    while folders:
        prefix, folder = folders.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                folders.append((f"{prefix}{entry.name}/", entry))
                continue
            media_type = MEDIA_TYPES.get(entry.name.rpartition(".")[2])
            if media_type is not None:
                content = _served(f"{prefix}{entry.name}", entry.read_bytes())
                packed = gzip.compress(content, 9, mtime=0)
                tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
                found[f"{prefix}{entry.name}"] = File(content, packed, media_type, tag)
    return found


def _served(name: str, content: bytes) -> bytes:
    """Leaves the comments out of the page's own scripts, a seventh of them."""
    is_own_script = name.endswith(".js") and "/" not in name
    return _COMMENTS.sub(b"", content) if is_own_script else content
