"""An HTTP server that answers as Slack's incoming webhooks do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

PATH = "/services/T000/B000/very-secret"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. ``hang_up`` closes the connection without one."""

    status: int = 200
    body: str = "ok"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    hang_up: bool = False


OK = Answer()


class Slack:
    """Serves a script of answers, then ``ok``.

    Attributes:
        attempts: every posted message, with its monotonic time.
        messages: the messages that were answered with 200.
    """

    def __init__(self, answers: Iterable[Answer] = (), port: int = 0) -> None:
        self.attempts: list[tuple[float, dict[str, Any]]] = []
        self.messages: list[dict[str, Any]] = []
        self._answers = list(answers)
        self._lock = threading.Lock()
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == PATH
                assert self.headers["content-type"] == "application/json"
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = slack.answer(body)
                if answer.hang_up:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{PATH}"

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.messages]

    def answer(self, message: dict[str, Any]) -> Answer:
        with self._lock:
            self.attempts.append((time.monotonic(), message))
            answer = self._answers.pop(0) if self._answers else OK
            if answer.status == 200 and not answer.hang_up:
                self.messages.append(message)
            return answer

    def __enter__(self) -> Slack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)
        assert not self._thread.is_alive()
