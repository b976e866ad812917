"""Terminal output of ``pomona up``: one line per event, and progress bars while stages load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from textwrap import wrap
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
MIN_FOLDED_WIDTH = 60
"""Columns of a terminal from which on long lines are folded below their own beginning."""


class _Console(Console):
    """A console with a callback for a closed pipe."""

    on_closed: Callable[[], None]

    def on_broken_pipe(self) -> None:
        self.on_closed()


class Screen:
    """Writes to standard output; plain lines unless it is a terminal.

    Args:
        on_closed: called when standard output is a pipe whose reader has closed it.
    """

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self._console = _Console(highlight=False, soft_wrap=True)
        self._console.on_closed = on_closed
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._quarters: dict[tuple[str, int, str], int] = {}

    def line(self, line: Line) -> None:
        text = Text()
        text.append(datetime.now().strftime("%H:%M:%S "), style="dim")
        text.append(f"{line.who:<{_NAME_WIDTH}} ", style="cyan")
        body = line.text
        if self._console.is_terminal and self._console.width >= MIN_FOLDED_WIDTH:
            room = self._console.width - len(text)
            indent = f"\n{' ' * len(text)}"
            body = indent.join(wrap(body, room, break_on_hyphens=False) or [""])
        text.append(body, style=_STYLES[line.tone])
        self._console.print(text)

    def loading(self, stages: Mapping[str, StageStatus]) -> None:
        """Shows the progress of the loading stages, by worker."""
        if self._console.is_terminal:
            self._show_bars(stages)
        else:
            self._print_quarters(stages)

    def close(self) -> None:
        """Removes the progress bars."""
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
            load = _load_progress(status)
            self._progress.update(
                self._bars[who],
                completed=load.done,
                total=load.total or None,
                loaded=load.text if load.total else "",
            )
        for who in [who for who in self._bars if who not in stages]:
            self._progress.remove_task(self._bars.pop(who))
        self._progress.refresh()

    def _print_quarters(self, stages: Mapping[str, StageStatus]) -> None:
        for who, status in stages.items():
            load = _load_progress(status)
            if not load.total:
                continue
            quarter = 4 * load.done // load.total
            key = (who, status.epoch, load.verb)
            if quarter > self._quarters.get(key, 0):
                self._quarters = {k: v for k, v in self._quarters.items() if k[0] != who}
                self._quarters[key] = quarter
                self.line(Line(who, load.text))


class _LoadProgress(NamedTuple):
    """Bytes of a stage that are fetched or loaded."""

    verb: str
    done: int
    total: int

    @property
    def text(self) -> str:
        return f"{self.verb} {in_bytes(self.done)} of {in_bytes(self.total)}"


def _load_progress(status: StageStatus) -> _LoadProgress:
    """Returns the fetch of missing weights first, then the load."""
    if status.fetch_bytes and not status.total_bytes:
        return _LoadProgress("fetched", status.fetched_bytes, status.fetch_bytes)
    return _LoadProgress("loaded", status.loaded_bytes, status.total_bytes)
