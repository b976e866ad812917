"""The interactive part of ``pomona chat``: prompt, commands, and answers on the terminal."""

from __future__ import annotations

import shutil
import sys
import termios
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.utils import get_cwidth

from pomona_ops.commands.chat import Chat, ChatError, NoGatewayError

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

HELP: Final = """\
Enter sends. A pasted block is one message. Alt-Enter or Ctrl-J starts a new line.
Ctrl-C stops an answer. Ctrl-D ends the chat.
  /new           start a new conversation
  /model [NAME]  list the models, or continue with another one
  /save FILE     write the conversation to a file
  /help          show this
  /exit          end the chat; so do exit and quit"""
_ENDS: Final = {"exit", "quit", "/exit", "/quit"}
_COLUMNS: Final = 80


def prompt_session(reader: Input | None = None, writer: Output | None = None) -> PromptSession[str]:
    """Makes a prompt in which Enter sends, and a pasted block stays one message."""
    keys = KeyBindings()

    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    keys.add("enter")(send)
    keys.add("c-j")(new_line)
    keys.add("escape", "enter")(new_line)
    return PromptSession(
        "\n> ",
        multiline=True,
        prompt_continuation="  ",
        key_bindings=keys,
        input=reader,
        output=writer,
    )


class Conversation:
    """Reads messages and commands until the end, and writes the answers.

    Args:
        output: where answers are written; wrapped at its width when it is a terminal.
    """

    def __init__(self, chat: Chat, session: PromptSession[str], output: TextIO) -> None:
        self._chat = chat
        self._session = session
        self._output = output

    def run(self) -> int:
        """Returns the exit code, 0, after Ctrl-D or ``exit``."""
        self._say(f"{self._chat.model}. /help lists commands, Ctrl-D ends the chat.")
        while True:
            try:
                text = self._session.prompt().strip()
            except EOFError:
                return 0
            except KeyboardInterrupt:
                continue
            if text.lower() in _ENDS:
                return 0
            try:
                if text.startswith("/") and "\n" not in text:
                    self._command(text)
                elif text:
                    self._answer(text)
            except (ChatError, NoGatewayError) as error:
                self._say(f"pomona: {error}")

    def _say(self, text: str) -> None:
        self._output.write(f"{text}\n")
        self._output.flush()

    def _answer(self, text: str) -> None:
        is_terminal = self._output.isatty()
        width = shutil.get_terminal_size((_COLUMNS, 24)).columns if is_terminal else 0
        wrapper = WordWrapper(width)
        with _no_echo(), closing(self._chat.ask(text)) as answer:
            try:
                for piece in answer:
                    self._output.write(wrapper.add(piece))
                    self._output.flush()
                self._say(wrapper.end())
            except KeyboardInterrupt:
                # Closing the stream makes the gateway free the request.
                self._say(f"{wrapper.end()}\n(stopped)")
            except (ChatError, NoGatewayError):
                self._say(wrapper.end())
                raise

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        argument = argument.strip()
        match name.lower():
            case "/help":
                self._say(HELP)
            case "/new":
                self._chat.start_over()
                self._say("a new conversation")
            case "/model":
                self._model(argument)
            case "/save":
                self._save(argument)
            case _:
                self._say(f"{name} is not a command; /help lists them")

    def _model(self, name: str) -> None:
        models = self._chat.models()
        found = next((x for x in models if x.lower() == name.lower()), None)
        if name and found is None:
            self._say(f"there is no model {name!r}; there are: {', '.join(models)}")
        elif found is not None:
            self._chat.model = found
            self._say(f"the next answer is from {found}")
        else:
            self._say("\n".join(f"{'*' if x == self._chat.model else ' '} {x}" for x in models))

    def _save(self, name: str) -> None:
        if not name:
            self._say("/save needs the name of a file, as in /save chat.md")
            return
        path = Path(name).expanduser()
        turns = (f"**{x['role']}**\n\n{x['content']}\n" for x in self._chat.messages)
        try:
            # An existing file may be somebody's work.
            with path.open("x") as file:
                file.write("\n".join(turns))
        except FileExistsError:
            self._say(f"{path} exists already: choose another name")
        except OSError as error:
            self._say(f"{path} cannot be written: {error.strerror}")
        else:
            self._say(f"saved in {path}")


class WordWrapper:
    """Breaks a stream of text between words, so that no word is cut at the edge.

    Args:
        width: columns of the terminal; 0 changes nothing.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._column = 0
        self._word = ""
        self._spaces = ""

    def add(self, text: str) -> str:
        """Returns what can be written now. The last word waits for its end."""
        if not self._width:
            return text
        return "".join(map(self._character, text))

    def end(self) -> str:
        """Returns the last word."""
        return self._flush_word()

    def _character(self, character: str) -> str:
        if character == "\n":
            written = self._flush_word() + "\n"
            self._column, self._spaces = 0, ""
            return written
        if character.isspace():
            written = self._flush_word()
            self._spaces += " " if character != "\t" else "    "
            return written
        self._word += character
        # A word that is longer than a line is cut, and so is text without spaces.
        return self._flush_word() if get_cwidth(self._word) >= self._width else ""

    def _flush_word(self) -> str:
        if not self._word:
            return ""
        size = get_cwidth(self._word)
        room = self._width - self._column - len(self._spaces)
        if self._column and size > room:
            written, self._column = f"\n{self._word}", size
        else:
            # Only an indentation can be too wide here: as much of it stays as the word leaves.
            spaces = self._spaces[: max(0, room - size + len(self._spaces))]
            written = spaces + self._word
            self._column += len(spaces) + size
        self._word = self._spaces = ""
        return written


@contextmanager
def _no_echo() -> Generator[None]:
    """Keeps keys typed during an answer out of its text; the next prompt receives it."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before: list[Any] = termios.tcgetattr(descriptor)
    quiet = list(before)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
