"""``pomona chat``: a conversation in the terminal, through the gateway's HTTP API."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from pomona.errors import PomonaError
from pomona_ops.cluster.api_url import api_url

CONNECT_S = 5.0
NEXT_TOKEN_S = 900.0
LOADING_S = 900.0
"""Seconds for which a question waits for its model to load."""
LOADING_CODE = "model_loading"
NOT_READY_CODE = "model_not_ready"

EXIT_FAILED = 1
EXIT_NO_CLUSTER = 2
EXIT_USAGE = 2

Message = dict[str, str]


class ChatError(PomonaError):
    """The gateway rejected the request or ended the answer early. The message is its own."""


class NotReadyError(ChatError):
    """The model does not answer yet.

    Attributes:
        is_loading: the question loads it. Otherwise it may have no pipeline for good.
        retry_after_s: seconds after which to ask again.
    """

    def __init__(self, message: str, is_loading: bool, retry_after_s: float) -> None:
        super().__init__(message)
        self.is_loading = is_loading
        self.retry_after_s = retry_after_s


class NoGatewayError(PomonaError):
    """No gateway answers at the address."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"no gateway answers at {url}. Start a cluster with `pomona up`, "
            "or pass its port with --port"
        )


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """Attributes:
    model, temperature: None leaves the choice to the gateway.
    """

    port: int
    model: str | None = None
    system: str | None = None
    temperature: float | None = None


def run_chat(options: ChatOptions, prompt: str | None) -> int:
    """Chats until the end of input, or prints one answer to ``prompt`` or piped text.

    Returns the exit code: 0 answered, 1 the gateway rejected the request, 2 no gateway.
    """
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
        if not prompt:
            print("pomona: no prompt: standard input is empty", file=sys.stderr)
            return EXIT_USAGE
    if prompt is not None and not prompt.strip():
        print(
            "pomona: the prompt is empty: ask something, as in `pomona chat 'What is a lane?'`",
            file=sys.stderr,
        )
        return EXIT_USAGE
    key = os.environ.get("POMONA_API_KEY")
    with httpx.Client(
        base_url=api_url(options.port),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(NEXT_TOKEN_S, connect=CONNECT_S),
        # The gateway is on a machine of the cluster: no proxy leads to it, and its certificate is
        # for the names that clients use.
        trust_env=False,
        verify=False,
    ) as client:
        try:
            chat = Chat(client, options)
            return _converse(chat) if prompt is None else _ask_once(chat, prompt)
        except NoGatewayError as error:
            print(f"pomona: {error}", file=sys.stderr)
            return EXIT_NO_CLUSTER
        except ChatError as error:
            print(f"pomona: {error}", file=sys.stderr)
            return EXIT_FAILED


class Chat:
    """Keeps the messages of a conversation and requests the next answer."""

    def __init__(self, client: httpx.Client, options: ChatOptions) -> None:
        self._client = client
        self._options = options
        self.model = options.model or self._first_model()
        self._messages: list[Message] = []
        if options.system:
            self._messages.append({"role": "system", "content": options.system})

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, in OpenAI's format."""
        return list(self._messages)

    def start_over(self) -> None:
        """Forgets the conversation, except the system message."""
        self._messages = [x for x in self._messages if x["role"] == "system"]

    def models(self) -> list[str]:
        """Returns the names of the gateway's models, those that are ready first.

        Raises ChatError and NoGatewayError.
        """
        try:
            answer = self._client.get("/v1/models")
        except httpx.HTTPError as error:
            raise NoGatewayError(str(self._client.base_url)) from error
        if answer.status_code != 200:
            raise ChatError(_message(answer.content, answer.status_code))
        models: list[dict[str, Any]] = orjson.loads(answer.content)["data"]
        models.sort(key=lambda model: not model.get("ready", False))
        return [str(model["id"]) for model in models]

    def ask(self, text: str) -> Generator[str]:
        """Yields the answer in pieces, as they arrive.

        Adds the question, and the answer as far as it was read, to the history; not when the
        request fails before the first piece. Raises ChatError and NoGatewayError.
        """
        question: Message = {"role": "user", "content": text}
        pieces: list[str] = []
        try:
            for piece in self._when_loaded([*self._messages, question]):
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self._messages += [question, {"role": "assistant", "content": "".join(pieces)}]

    def _first_model(self) -> str:
        models = self.models()
        if not models:
            raise ChatError("the cluster has no model yet; see `pomona status` for the reason")
        return models[0]

    def _when_loaded(self, messages: list[Message]) -> Iterator[str]:
        """Yields the answer's pieces. Asks again while the model is loaded for this question."""
        deadline = time.monotonic() + LOADING_S
        told, loads = "", False
        while True:
            try:
                yield from self._stream(messages)
                return
            except NotReadyError as error:
                loads = loads or error.is_loading
                if not loads or time.monotonic() + error.retry_after_s > deadline:
                    raise
                if str(error) != told:
                    told = str(error)
                    print(f"pomona: {told}", file=sys.stderr)
                time.sleep(error.retry_after_s)

    def _stream(self, messages: list[Message]) -> Iterator[str]:
        body: dict[str, Any] = {"model": self.model, "messages": messages, "stream": True}
        if self._options.temperature is not None:
            body["temperature"] = self._options.temperature
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer)
                yield from _pieces(answer.iter_lines())
        except httpx.ConnectError as error:
            raise NoGatewayError(str(self._client.base_url)) from error
        except httpx.TimeoutException as error:
            raise ChatError(f"no token from the gateway for {NEXT_TOKEN_S:g} s") from error
        except httpx.HTTPError as error:
            raise ChatError(
                "the gateway closed the connection; it may be restarting, try again"
            ) from error


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    """Yields the text in a stream of server-sent events.

    Raises ChatError for an error event, and when the stream ends before ``[DONE]``.
    """
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = orjson.loads(data)
        if "error" in event:
            raise ChatError(str(event["error"].get("message", event["error"])))
        for choice in event.get("choices", []):
            piece = choice.get("delta", {}).get("content")
            if piece:
                yield piece
    raise ChatError("the answer is incomplete: the gateway ended the stream early")


def _refusal(answer: httpx.Response) -> ChatError:
    """Returns the error of a response that is no answer."""
    body = answer.read()
    message = _message(body, answer.status_code)
    with suppress(orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        code = orjson.loads(body)["error"]["code"]
        if code in (LOADING_CODE, NOT_READY_CODE):
            retry_after_s = float(answer.headers["retry-after"])
            return NotReadyError(message, code == LOADING_CODE, retry_after_s)
    return ChatError(message)


def _message(body: bytes, status: int) -> str:
    """Returns the message of an error response in OpenAI's format."""
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        return str(orjson.loads(body)["error"]["message"])
    return f"the gateway answered with status {status}"


def _converse(chat: Chat) -> int:
    from pomona_ops.commands.conversation import Conversation, prompt_session

    return Conversation(chat, prompt_session(), sys.stdout).run()


def _ask_once(chat: Chat, prompt: str) -> int:
    try:
        for piece in chat.ask(prompt):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print()
        return 130
    print()
    return 0
