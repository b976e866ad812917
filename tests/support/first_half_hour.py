"""Records a new user's first half hour: run `python -m support.first_half_hour` in `tests`.

Runs the commands on terminals of 80 columns and 24 lines, with the embedded model, and writes what
they print to docs/FIRST_HALF_HOUR.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import httpx

from support.clusters import MODEL, pomona
from support.ports import free_ports
from support.waiting import wait_until

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "docs" / "FIRST_HALF_HOUR.md"
COLUMNS, LINES = 80, 24
READY_S = 180.0
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str, **variables: str) -> None:
        self._leader, follower = pty.openpty()
        size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
        fcntl.ioctl(follower, termios.TIOCSWINSZ, size)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("POMONA_")
        }
        environment |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "24", **variables}
        self.process = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(follower)
        self._output = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                select.select([self._leader], [], [])
                chunk = os.read(self._leader, 65536)
            except OSError:
                return
            if not chunk:
                return
            self._output += chunk

    @property
    def text(self) -> str:
        """Text as a reader sees it: without escape sequences, and the last state of each line."""
        plain = ESCAPES.sub("", self._output.decode(errors="replace")).replace("\r\n", "\n")
        lines = (line.rpartition("\r")[2].rstrip() for line in plain.split("\n"))
        return "\n".join(lines).strip("\n")

    def end(self, timeout_s: float = 60.0) -> str:
        """Waits for the end of the command, and returns its text."""
        self.process.wait(timeout_s)
        self._reader.join(2)
        return self.text


def record() -> str:
    """Runs the half hour. Returns the recording."""
    parts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        ports = free_ports()
        home = {"HOME": folder, "POMONA_PORT": str(ports.first)}
        url = f"http://127.0.0.1:{ports.gateway}"
        up = Terminal(*pomona("up"), **home)
        shown_until = 0

        def tell(text: str) -> None:
            parts.append(text)

        def show_up() -> None:
            nonlocal shown_until
            # Bars move on one line of the terminal, and disappear.
            fresh = [x for x in up.text[shown_until:].split("\n") if x and "━" not in x]
            shown_until = len(up.text)
            parts.append("```\n" + "\n".join(fresh) + "\n```")

        def run(*arguments: str) -> None:
            output = Terminal(*pomona(*arguments), **home).end()
            shown = " ".join(f"'{x}'" if " " in x or "?" in x else x for x in arguments)
            parts.append(f"```\n$ pomona {shown}\n{output}\n```")

        def state() -> str:
            done = subprocess.run(
                pomona("status", "--json"), env={**os.environ, **home}, capture_output=True,
                check=False,
            )  # fmt: skip
            return str(json.loads(done.stdout or b"{}").get("state", ""))

        def ask() -> int:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            return answer.status_code

        try:
            wait_until(lambda: "ready after" in up.text, "the cluster is ready", READY_S)
            tell("The first terminal starts a cluster (`make up` runs the same):")
            parts.append("```\n$ pomona up\n```")
            wait_until(lambda: "stop: Ctrl-C" in up.text, "the next steps", READY_S)
            show_up()
            tell("A second terminal asks, and looks around:")
            run("chat", "What is the capital of France?")
            wait_until(lambda: state() == "serving", "serving", READY_S)
            run("status")
            run("models", "list")
            run("help", "stage")
            run("plan", "deepseek-v3", "--cluster", "8x:m4-pro-64gb")
            run("doctor")
            tell("A stage worker is killed. The first terminal tells:")
            _kill(home, "stage_worker.1")
            wait_until(lambda: "ready again" in up.text[shown_until:], "ready again", READY_S)
            wait_until(lambda: "ALERT" in up.text[shown_until:], "the alert", READY_S)
            show_up()
            tell("The planner, too:")
            _kill(home, "planner")
            wait_until(lambda: "ALERT" in up.text[shown_until:], "the alert", READY_S)
            show_up()
            tell("The model is unloaded, and a request loads it again:")
            run("models", "unload", MODEL)
            wait_until(lambda: "is unloaded" in up.text[shown_until:], "unloaded", READY_S)
            run("status")
            wait_until(lambda: "idle:" in up.text[shown_until:], "idle", READY_S)
            ask()
            wait_until(lambda: ask() == 200, "an answer", READY_S)
            wait_until(lambda: "a model is loaded" in up.text[shown_until:], "loaded", READY_S)
            show_up()
            run("logs", "planner", "--since", "10m")
            tell("Ctrl-C in the first terminal:")
            os.kill(up.process.pid, signal.SIGINT)
            up.end()
            show_up()
            run("status")
        finally:
            if up.process.poll() is None:
                up.process.kill()
                up.process.wait(60)
        text = "\n\n".join(parts)
        return text.replace(folder, "~").replace(str(ROOT), "pomona")


def _kill(home: dict[str, str], service: str) -> None:
    done = subprocess.run(
        pomona("status", "--json"), env={**os.environ, **home}, capture_output=True, check=True
    )
    (pid,) = (
        x["pid"] for x in json.loads(done.stdout)["services"] if x["name"].endswith(f".{service}")
    )
    os.kill(pid, signal.SIGKILL)


HEADING = """# A new user's first half hour

Recorded by `python -m support.first_half_hour` in the folder `tests`, on terminals of 80 columns
and 24 lines, with the embedded model on a Linux machine.

"""


def main() -> None:
    began = time.monotonic()
    RECORDING.write_text(HEADING + record() + "\n")
    print(f"{RECORDING.relative_to(ROOT)} in {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
