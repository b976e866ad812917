"""Formats a cluster's report for a terminal: what serves, nodes, links, stages, services.

Names are cut in the middle, since their ends tell them apart. On a screen that is too short the
less important tables are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pomona.addresses import IPC_PREFIX
from pomona.messages.control import NodeDrain, SpeculationStatus
from pomona_ops.units import in_bytes

if TYPE_CHECKING:
    from pomona.cluster_report import ClusterReport, PipelineReport, StageReport

MIN_NAME: Final = 16
"""Fewest columns of a name that is cut."""
GAP: Final = 2
"""Characters between two columns, and at the edges together."""
MAX_WORD: Final = 12
"""Most columns that a text needs; longer words are broken."""
Kind = Literal["name", "text", "number"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the report.

    Attributes:
        name: text in its place when it is left out.
        rank: parts of a higher rank are left out first; rank 0 stays.
    """

    name: str
    rank: int
    content: RenderableType


@dataclass(frozen=True, slots=True)
class MiddleCut:
    """A text of one line, cut in the middle to the width that there is."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(cut_middle(self.text, options.max_width))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(MIN_NAME, len(self.text)), len(self.text))


def cut_middle(text: str, width: int) -> str:
    """Shortens a text to ``width`` characters, keeping its beginning and more of its end."""
    if len(text) <= width:
        return text
    if width < 3:
        return text[-width:] if width else ""
    end = (width - 1) * 2 // 3
    return f"{text[: width - 1 - end]}…{text[-end:]}"


def rendered(report: ClusterReport) -> Group:
    """Returns the whole report."""
    return Group(*(part.content for part in _parts(report)))


def _where(report: ClusterReport) -> str:
    """Says where the API is: its URLs, or the machines that alone reach it."""
    if report.urls:
        return " ".join(report.urls)
    closed = sorted({x.node for x in report.services if x.service == "gateway"})
    return f"API on {', '.join(closed)} only" if closed else ""


def fitted(report: ClusterReport, console: Console) -> Group:
    """Returns the report in at most as many lines as the screen has."""
    parts = _parts(report)
    left_out: list[str] = []
    heights = [_height(part.content, console) for part in parts]
    room = console.size.height - 1
    while sum(heights) > room and max(part.rank for part in parts):
        worst = max(range(len(parts)), key=lambda number: parts[number].rank)
        left_out.append(parts[worst].name)
        del parts[worst], heights[worst]
    shown = [part.content for part in parts]
    if left_out:
        names = ", ".join(dict.fromkeys(reversed(left_out)))
        note = f"not shown on this screen: {names} (`pomona status` without --watch has all)"
        shown.append(Text(cut_end(note, console.size.width), style="dim"))
    if sum(heights) > room:
        # Only what must be shown is left: cut it at the end.
        lines = console.render_lines(Group(*shown), console.options, pad=False)[:room]
        return Group(*(Text("".join(x.text for x in line), style="") for line in lines))
    return Group(*shown)


def cut_end(text: str, width: int) -> str:
    """Shortens a sentence to ``width`` characters."""
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _height(content: RenderableType, console: Console) -> int:
    return len(console.render_lines(content, console.options, pad=False))


def _parts(report: ClusterReport) -> list[Part]:
    colour = "green" if report.state == "serving" else "yellow"
    head = Text(report.cluster, style="bold")
    head.append(" is ", style="not bold").append(report.state, style=f"bold {colour}")
    head.append(
        f"  {_where(report)}  users {report.users}  {report.tokens_per_second:g} tok/s",
        style="not bold",
    )
    parts = [Part("", 0, head)]
    troubles = [*report.troubles]
    troubles += [f"{node.name}: {x}" for node in report.nodes for x in node.troubles]
    parts += [Part("problems", 1, Text(f"  ! {x}", style="yellow")) for x in troubles]
    told = {alert.summary for alert in report.alerts} & set(troubles)
    for alert in report.alerts:
        if alert.summary not in told:
            text = Text(f"  {alert.severity}: {alert.summary}", style="red")
            parts.append(Part("alerts", 2, text))
    present = {x.name for x in report.nodes} | {x.name for x in report.workers}
    for drain in report.drains:
        if drain.is_in_force:
            text = f"  {drain.node} is {drain.state}{_drain_note(drain, present)}"
            parts.append(Part("drained nodes", 3, Text(text, style="cyan")))
    for pipeline in report.pipelines:
        parts += _pipeline(pipeline)
    for name in report.unloaded:
        parts.append(Part("unloaded models", 4, Text(f"{name}  not loaded", style="dim")))
    if report.requests:
        parts.append(Part("requests", 5, _requests(report)))
    parts.append(Part("nodes", 6, _nodes(report)))
    if any(node.links for node in report.nodes):
        parts.append(Part("links", 7, _links(report)))
    parts.append(Part("services", 8, _services(report)))
    return parts


def _drain_note(drain: NodeDrain, present: set[str]) -> str:
    """Says whether a drained node is away, and how it is taken back."""
    away = "" if drain.node in present else ", and away"
    back = "until it is back" if drain.until_back else f"`pomona undrain {drain.node}` ends it"
    return f"{away}; {back}"


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table that leaves out columns: those without content, and from the right those of numbers
    until its names have room.

    Attributes:
        columns: kind of each column, by its heading.
        optional: headings of the columns that may be left out for room, the first one first.
    """

    columns: dict[str, Kind]
    rows: Sequence[Sequence[str]]
    optional: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = [name for name in self.columns if self._is_needed(name)]
        for name in self.optional:
            if sum(self._least(x) + GAP for x in kept) <= options.max_width:
                break
            kept = [x for x in kept if x != name]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for name, width in self._widths(kept, options.max_width).items():
            is_number = self.columns[name] == "number"
            table.add_column(
                name, justify="right" if is_number else "left", no_wrap=is_number, width=width
            )
        for row in self.rows:
            cells = dict(zip(self.columns, row, strict=True))
            table.add_row(
                *(
                    MiddleCut(cells[name]) if self.columns[name] == "name" else cells[name]
                    for name in kept
                )
            )
        yield table

    def _widths(self, kept: Sequence[str], room: int) -> dict[str, int]:
        """Returns the width of each column: the widest of names and texts give way first."""
        widths = {name: max(map(len, (name, *self._cells(name)))) for name in kept}
        excess = sum(widths.values()) + GAP * len(kept) - room
        for _ in range(excess):
            flexible = [name for name in kept if widths[name] > self._least(name)]
            if not flexible:
                break
            widths[max(flexible, key=widths.__getitem__)] -= 1
        return widths

    def _cells(self, name: str) -> list[str]:
        number = list(self.columns).index(name)
        return [row[number] for row in self.rows]

    def _is_needed(self, name: str) -> bool:
        return self.columns[name] == "name" or any(self._cells(name))

    def _least(self, name: str) -> int:
        """Returns the fewest characters of a column."""
        longest = max(map(len, (name, *self._cells(name))))
        match self.columns[name]:
            case "number":
                return longest
            case "name":
                return min(longest, max(MIN_NAME, len(name)))
            case "text":
                words = (word for cell in self._cells(name) for word in cell.split())
                return min(MAX_WORD, max(map(len, (name, *words))))


def _nodes(report: ClusterReport) -> FittedTable:
    columns: dict[str, Kind] = {
        "node": "name", "chip": "name", "cores": "number", "memory": "number",
        "usable": "number", "power": "number", "system": "text",
    }  # fmt: skip
    rows: list[list[str]] = []
    for node in report.nodes:
        hardware = node.hardware
        if hardware is None:
            rows.append([node.name, "no beacon from discovery", "", "", "", "", ""])
            continue
        rows.append(
            [
                node.name,
                hardware.chip,
                str(hardware.cores),
                in_bytes(hardware.memory_bytes),
                in_bytes(hardware.usable_memory_bytes),
                f"{node.machine.watts:.0f} W" if node.machine.watts else "",
                f"{hardware.os_name} {hardware.os_version}",
            ]
        )
    return FittedTable(columns, rows)


def _links(report: ClusterReport) -> FittedTable:
    columns: dict[str, Kind] = {
        "from": "name", "to": "name", "kind": "text", "address": "name",
        "round trip": "number", "rate": "number",
    }  # fmt: skip
    rows: list[list[str]] = []
    for node in report.nodes:
        for link in node.links:
            if not link.address:
                rows.append([node.name, link.node, "does not answer", " ".join(link.dead), "", ""])
                continue
            rows.append(
                [
                    node.name,
                    link.node,
                    link.kind,
                    link.address,
                    f"{link.rtt_us / 1000:.2f} ±{link.rtt_spread_us / 1000:.2f} ms",
                    f"{in_bytes(int(link.bytes_per_s))}/s",
                ]
            )
    return FittedTable(columns, rows)


def _state(stage: StageReport) -> str:
    if stage.state == "ready" and stage.group is not None:
        return f"ready, {len(stage.group.ranks)} ranks ({stage.group.backend})"
    if stage.state == "loading" and stage.fetch_bytes and not stage.total_bytes:
        return f"fetching {100 * stage.fetched_bytes // stage.fetch_bytes}%"
    if stage.state == "loading" and stage.total_bytes:
        return f"loading {100 * stage.loaded_bytes // stage.total_bytes}%"
    return stage.state


def _mlx_memory(stage: StageReport) -> str:
    """Returns the memory of MLX's arrays and what its allocator keeps besides."""
    if not stage.active_bytes:
        return ""
    return f"{in_bytes(stage.active_bytes)} + {in_bytes(stage.cached_bytes)} kept"


def _milliseconds(us: float) -> str:
    return f"{us / 1000:.1f}" if us else ""


OPTIONAL: Final = ("MLX", "caches", "ms planned", "measured", "weights")
"""Columns of stages that may be left out, the first one first."""


def _pipeline(pipeline: PipelineReport) -> list[Part]:
    head = Text(pipeline.model, style="bold")
    head.append(f"  epoch {pipeline.epoch}  {pipeline.state}", style="not bold")
    columns: dict[str, Kind] = {
        "layers": "number", "stage worker": "name", "state": "text", "weights": "number",
        "memory": "number", "MLX": "number", "caches": "number", "ms planned": "number",
        "measured": "number",
    }  # fmt: skip
    rows = [
        [
            f"{stage.start}..{stage.stop}",
            stage.worker,
            _state(stage),
            in_bytes(stage.loaded_bytes),
            in_bytes(stage.footprint_bytes),
            _mlx_memory(stage),
            in_bytes(stage.cache_bytes),
            _milliseconds(stage.predicted_us),
            _milliseconds(stage.decode_us),
        ]
        for stage in pipeline.stages
    ]
    parts = [Part("", 0, head)]
    if rows:
        parts.append(Part("stages", 3, FittedTable(columns, rows, OPTIONAL)))
    prediction = pipeline.prediction
    if prediction is not None:
        measured = pipeline.measured_tokens_per_second
        several = (
            f"; {prediction.users} users together: {prediction.users_tokens_per_second:.1f}"
            if prediction.users > 1
            else ""
        )
        guessed = (
            f"; with {prediction.acceptance:.0%} of guesses right: "
            f"{prediction.guessed_tokens_per_second:.1f}"
            if prediction.guessed_tokens_per_second
            else ""
        )
        text = (
            f"  one user: predicted {prediction.tokens_per_second:.1f} tok/s "
            f"(ceiling {prediction.ceiling_tokens_per_second:.1f}), "
            f"{f'measured {measured:.1f}' if measured else 'not measured yet'}{guessed}{several}; "
            f"first token after a prompt of {prediction.prompt_tokens}: "
            f"{prediction.first_token_s:.1f} s"
        )
        parts.append(Part("predictions", 9, Text(text)))
        parts += [Part("predictions", 9, Text(f"  {x}", style="dim")) for x in prediction.notes]
    if pipeline.speculation is not None:
        text = f"  guesses: {_guesses(pipeline.speculation)}"
        parts.append(Part("guesses", 9, Text(text, style="dim")))
    if pipeline.proposal:
        text = f"  a better plan: {pipeline.proposal}"
        parts.append(Part("a better plan", 9, Text(text, style="cyan")))
    return parts


def _guesses(status: SpeculationStatus) -> str:
    """Says how many guesses were right and where they came from, or why there are none."""
    if status.off:
        return f"none; {status.off}"
    unused = "".join(f"; no {name}: {reason}" for name, reason in status.unused.items())
    if not status.drafted:
        return f"none were worth sending yet{unused}"
    sources = ", ".join(f"{count} from {name}" for name, count in status.sources.items())
    return (
        f"{status.accepted / status.drafted:.0%} right ({sources or 'none'}), "
        f"{status.tokens_per_round:.2f} tokens a round{unused}"
    )


def _requests(report: ClusterReport) -> FittedTable:
    columns: dict[str, Kind] = {
        "request": "name", "model": "name", "age": "number", "prompt read": "number",
        "reply": "number",
    }  # fmt: skip
    rows = [
        [
            request.request,
            request.model,
            f"{request.age_s:.0f} s",
            f"{request.prefilled} of {request.prompt_tokens}",
            f"{request.reply_tokens} tokens",
        ]
        for request in report.requests
    ]
    return FittedTable(columns, rows)


def _services(report: ClusterReport) -> FittedTable:
    columns: dict[str, Kind] = {
        "service": "name", "node": "name", "pid": "number", "state": "text", "listens at": "text",
    }  # fmt: skip
    rows = [
        [
            service.name.removeprefix(f"{service.node}."),
            service.node,
            str(service.pid),
            service.state,
            "  ".join(
                x for x in sorted(service.endpoints.values()) if not x.startswith(IPC_PREFIX)
            ),
        ]
        for service in report.services
    ]
    return FittedTable(columns, rows)
