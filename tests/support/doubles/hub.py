"""A local Hugging Face hub that serves folders to ``huggingface_hub``."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

WEIGHTS = (".safetensors", ".gguf")


class FakeHub:
    """Serves models from folders.

    Attributes:
        models: folder of the branch ``main``, by model id.
        revisions: folder of each model id and commit.
        served: bytes sent, by file name.
        tokens: authorisation headers received.
        fail_after: number of weight bytes after which requests for weights fail; None for never.
        token: required access token, if not empty.
    """

    def __init__(self, models: dict[str, Path]) -> None:
        self.models: dict[str, Path] = {}
        self.revisions: dict[tuple[str, str], Path] = {}
        for name, folder in models.items():
            self.push(name, folder)
        self.served: dict[str, int] = {}
        self.tokens: set[str] = set()
        self.fail_after: int | None = None
        self.token = ""
        self.url = ""

    def push(self, name: str, folder: Path) -> str:
        """Makes ``folder`` the head of ``main``. Returns its commit."""
        count = len(self.revisions_of(name))
        commit = hashlib.sha1(f"{name} {count}".encode()).hexdigest()
        self.models[name] = folder
        self.revisions[name, commit] = folder
        return commit

    def revisions_of(self, name: str) -> list[str]:
        """Returns the commits of a model, newest last."""
        return [commit for known, commit in self.revisions if known == name]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        authorization = handler.headers.get("authorization", "")
        self.tokens.add(authorization)
        if self.token and authorization != f"Bearer {self.token}":
            _send(handler, 401, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
            return
        path = unquote(urlsplit(handler.path).path)
        for (name, commit), folder in self.revisions.items():
            named = [f"/api/models/{name}/revision/{commit}"]
            if self.models[name] == folder:
                named += [f"/api/models/{name}", f"/api/models/{name}/revision/main"]
            if path in named:
                _send(handler, 200, {"id": name, "sha": commit, "siblings": []})
                return
            if path == f"/api/models/{name}/tree/{commit}":
                _send(handler, 200, [_entry(folder, x) for x in _files(folder)])
                return
            prefix = f"/{name}/resolve/{commit}/"
            if path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                self._file(handler, folder, path.removeprefix(prefix), commit)
                return
        _send(handler, 404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})

    def weight_bytes(self) -> int:
        return sum(n for file, n in self.served.items() if file.endswith(WEIGHTS))

    def _file(self, handler: BaseHTTPRequestHandler, folder: Path, name: str, commit: str) -> None:
        content = (folder / name).read_bytes()
        begin, end = 0, len(content)
        requested = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("range", ""))
        if requested:
            begin, end = int(requested[1]), min(int(requested[2]) + 1, end)
        if (
            name.endswith(WEIGHTS)
            and self.fail_after is not None
            and self.weight_bytes() >= self.fail_after
        ):
            _send(handler, 403, {"error": "broken"})
            return
        self.served[name] = self.served.get(name, 0) + end - begin
        handler.send_response(206 if requested else 200)
        handler.send_header("content-length", str(end - begin))
        handler.send_header("etag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.send_header("x-repo-commit", commit)
        handler.send_header("accept-ranges", "bytes")
        if requested:
            handler.send_header("content-range", f"bytes {begin}-{end - 1}/{len(content)}")
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content[begin:end])


@contextmanager
def fake_hub(models: dict[str, Path]) -> Generator[FakeHub]:
    hub = FakeHub(models)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.answer(self)

        def do_HEAD(self) -> None:
            hub.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _files(folder: Path) -> list[Path]:
    return sorted(x for x in folder.rglob("*") if x.is_file())


def _entry(folder: Path, file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    entry: dict[str, Any] = {
        "type": "file",
        "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        "size": size,
        "path": file.relative_to(folder).as_posix(),
    }
    if file.suffix in WEIGHTS:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
    return entry


def _send(
    handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(content)))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)
