"""A client that sends hostile input of all kinds, and streams that must stay exact beside it."""

from __future__ import annotations

import gzip
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx

from support.questions import MODEL

PATIENCE_S = 20.0
LONG_TEXT_BYTES = 31 << 20


class HostileClient:
    """Sends one kind of input after the other, in threads.

    Attributes:
        statuses: number of answers by kind and status; 0 stands for none.
    """

    def __init__(self, url: str, key: str, seed: int) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._chance = random.Random(seed)
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._kinds: dict[str, Callable[[httpx.Client], int]] = {
            "grammar": self._grammar,
            "pattern": self._pattern,
            "long prompt": self._long_prompt,
            "deep JSON": self._deep_json,
            "damaged JSON": self._damaged_json,
            "zip bomb": self._zip_bomb,
            "odd model": self._odd_model,
            "odd values": self._odd_values,
            "many choices": self._many_choices,
            "disconnect": self._disconnect,
            "slow headers": self._slow_headers,
            "damaged HTTP": self._damaged_http,
            "idle connections": self._idle_connections,
            "foreign page": self._foreign_page,
        }

    def start(self, threads: int) -> None:
        """Starts to send."""
        for _ in range(threads):
            thread = threading.Thread(target=self._run, args=(self._chance.random(),))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Ends the message in progress."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE_S)

    def _run(self, seed: float) -> None:
        chance = random.Random(seed)
        names = list(self._kinds)
        while not self._stopped.is_set():
            name = chance.choice(names)
            status = 0
            with (
                suppress(httpx.HTTPError, OSError),
                httpx.Client(
                    base_url=self._url,
                    headers=self._headers,
                    timeout=PATIENCE_S,
                    trust_env=False,
                ) as client,
            ):
                status = self._kinds[name](client)
            self.statuses[name, status] += 1

    def _chat(self, client: httpx.Client, **body: Any) -> int:
        whole = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        return client.post("/v1/chat/completions", json=whole | body).status_code

    def _grammar(self, client: httpx.Client) -> int:
        first = self._chance.randrange(1, 100)
        schema = {
            "type": "string",
            "allOf": [{"pattern": f"a.{{1,{n}}}b"} for n in range(first, first + 100)],
        }
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        return self._chat(client, response_format=form)

    def _pattern(self, client: httpx.Client) -> int:
        size = self._chance.randrange(20, 90)
        return self._chat(client, structured_outputs={"regex": f"(a|b)*a(a|b){{{size}}}"})

    def _long_prompt(self, client: httpx.Client) -> int:
        text = self._chance.choice("aé ") * (LONG_TEXT_BYTES // 2)
        return self._chat(client, messages=[{"role": "user", "content": text}])

    def _deep_json(self, client: httpx.Client) -> int:
        depth = 100_000
        content = b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"
        return self._post(client, content)

    def _damaged_json(self, client: httpx.Client) -> int:
        whole = bytearray(json.dumps({"model": MODEL, "messages": [{"role": "user"}]}).encode())
        for _ in range(3):
            whole[self._chance.randrange(len(whole))] = self._chance.randrange(256)
        return self._post(client, bytes(whole))

    def _zip_bomb(self, client: httpx.Client) -> int:
        content = gzip.compress(bytes(256 << 20), 1)
        return self._post(client, content, {"content-encoding": "gzip"})

    def _post(self, client: httpx.Client, content: bytes, headers: dict[str, str] = {}) -> int:  # noqa: B006 - it is only read
        given = {"content-type": "application/json"} | headers
        return client.post("/v1/chat/completions", content=content, headers=given).status_code

    def _odd_model(self, client: httpx.Client) -> int:
        name = self._chance.choice(["../../etc", "a\x00b", "x" * 5000, "http://x/y", "\u202egpj"])
        client.post("/v1/models/load", json={"model": name})
        return self._chat(client, model=name)

    def _odd_values(self, client: httpx.Client) -> int:
        values = [2**63, -1, 1e308, "x", None, [], {}, [[0]] * 1000]
        keys = ["max_tokens", "temperature", "top_k", "seed", "stop", "logit_bias", "n", "tools"]
        odd = {key: self._chance.choice(values) for key in self._chance.sample(keys, 3)}
        return self._chat(client, **odd)

    def _many_choices(self, client: httpx.Client) -> int:
        return self._chat(client, n=16, max_tokens=64, logprobs=True, top_logprobs=20)

    def _disconnect(self, client: httpx.Client) -> int:
        body = {"model": MODEL, "prompt": "One, two", "max_tokens": 500, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            for _, _line in zip(range(5), answer.iter_lines(), strict=False):
                pass
            return answer.status_code

    def _connect(self) -> socket.socket:
        place = urlsplit(self._url)
        return socket.create_connection((place.hostname, place.port), timeout=PATIENCE_S)

    def _slow_headers(self, client: httpx.Client) -> int:
        with self._connect() as raw:
            for byte in b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx: aaaaaa":
                raw.send(bytes([byte]))
                if self._stopped.wait(0.05):
                    break
        return 0

    def _damaged_http(self, client: httpx.Client) -> int:
        with self._connect() as raw:
            raw.sendall(bytes(self._chance.randrange(256) for _ in range(2000)) + b"\r\n\r\n")
            words = raw.recv(64).split(b" ")
            return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    def _idle_connections(self, client: httpx.Client) -> int:
        raws: list[socket.socket] = []
        with suppress(OSError):
            raws += [self._connect() for _ in range(100)]
        self._stopped.wait(1)
        for raw in raws:
            raw.close()
        return 0

    def _foreign_page(self, client: httpx.Client) -> int:
        headers = {"origin": "https://evil.example", "content-type": "text/plain"}
        return self._post(client, b"{}", headers)


class ExactStream:
    """Streams one answer again and again, and compares each with the first.

    Attributes:
        gap_s: the longest time between two events of a stream.
        count: number of streams that were whole and exact.
        wrong: what went wrong.
    """

    def __init__(self, url: str, key: str, prompt: str, max_tokens: int) -> None:
        self.gap_s = 0.0
        self.count = 0
        self.wrong: list[str] = []
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
            "stream": True,
        }
        self._expected = self._read()
        self.gap_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Starts to stream."""
        self._thread.start()

    def stop(self) -> None:
        """Waits for the running stream."""
        self._stopped.set()
        self._thread.join(120)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                text = self._read()
            except (httpx.HTTPError, KeyError) as error:
                self.wrong.append(repr(error))
                time.sleep(0.5)
                continue
            if text == self._expected:
                self.count += 1
            else:
                self.wrong.append(text)

    def _read(self) -> str:
        """Returns the text of one answer."""
        parts: list[str] = []
        last = 0.0
        with httpx.stream(
            "POST",
            f"{self._url}/v1/chat/completions",
            json=self._body,
            headers=self._headers,
            timeout=120,
            trust_env=False,
        ) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                delta = json.loads(line[6:])["choices"][0]["delta"]
                now = time.monotonic()
                if last and delta.get("content"):
                    self.gap_s = max(self.gap_s, now - last)
                if delta.get("content"):
                    last = now
                    parts.append(delta["content"])
        return "".join(parts)
