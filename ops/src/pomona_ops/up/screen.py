"""What ``pomona up`` writes: one line an event, and bars while stages load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from pomona.messages.control import StageStatus
from pomona_ops.units import in_bytes
from pomona_ops.up.event_formatter import Line, Tone

_STYLES: Final[dict[Tone, str]] = {
    "plain": "", "good": "green", "warning": "yellow", "bad": "bold red",
}  # fmt: skip
_NAME_WIDTH = 15


class _Console(Console):
    """A console that tells when nobody reads what it writes any more."""

    reader_gone: Callable[[], None]

    def on_broken_pipe(self) -> None:
        self.reader_gone()


class Screen:
    """Writes to standard output; plain lines when that is no terminal.

    ``reader_gone`` is called when standard output is a pipe that was closed.
    """

    def __init__(self, reader_gone: Callable[[], None]) -> None:
        self._console = _Console(highlight=False, soft_wrap=True)
        self._console.reader_gone = reader_gone
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._quarters: dict[tuple[str, int, str], int] = {}

    def line(self, line: Line) -> None:
        text = Text()
        text.append(datetime.now().strftime("%H:%M:%S "), style="dim")
        text.append(f"{line.who:<{_NAME_WIDTH}} ", style="cyan")
        text.append(line.text, style=_STYLES[line.tone])
        self._console.print(text)

    def loading(self, stages: Mapping[str, StageStatus]) -> None:
        """Show how far the loading stages are, by worker."""
        if self._console.is_terminal:
            self._show_bars(stages)
        else:
            self._say_quarters(stages)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._show_bars({})

    def _show_bars(self, stages: Mapping[str, StageStatus]) -> None:
        if not stages:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None
                self._bars.clear()
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn(f"{'':8} {{task.description:<{_NAME_WIDTH}}}"),
                BarColumn(),
                TextColumn("{task.fields[loaded]}"),
                console=self._console,
                transient=True,
                auto_refresh=False,
            )
            self._progress.start()
        for who, status in stages.items():
            if who not in self._bars:
                self._bars[who] = self._progress.add_task(who, total=None, loaded="")
            far = _how_far(status)
            self._progress.update(
                self._bars[who],
                completed=far.done,
                total=far.total or None,
                loaded=far.said if far.total else "",
            )
        for who in [who for who in self._bars if who not in stages]:
            self._progress.remove_task(self._bars.pop(who))
        self._progress.refresh()

    def _say_quarters(self, stages: Mapping[str, StageStatus]) -> None:
        for who, status in stages.items():
            far = _how_far(status)
            if not far.total:
                continue
            quarter = 4 * far.done // far.total
            key = (who, status.epoch, far.verb)
            if quarter > self._quarters.get(key, 0):
                self._quarters = {k: v for k, v in self._quarters.items() if k[0] != who}
                self._quarters[key] = quarter
                self.line(Line(who, far.said))


class _Far(NamedTuple):
    """How far a stage is, in bytes."""

    verb: str
    done: int
    total: int

    @property
    def said(self) -> str:
        return f"{self.verb} {in_bytes(self.done)} of {in_bytes(self.total)}"


def _how_far(status: StageStatus) -> _Far:
    """What is not on the machine is fetched first; then the stage is loaded."""
    if status.fetch_bytes and not status.total_bytes:
        return _Far("fetched", status.fetched_bytes, status.fetch_bytes)
    return _Far("loaded", status.loaded_bytes, status.total_bytes)
