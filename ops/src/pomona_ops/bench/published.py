"""Published speeds, read from a file, and the cluster that each row describes.

The file has tab-separated columns with a header; ``COLUMNS`` must be among them. Rows that the
planner cannot predict have a reason instead of a prediction.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pomona.models import ModelFacts
from pomona.models.published import published_facts, published_names
from pomona_ops.bench.clusters import BenchError
from pomona_planner.cluster.decode_times import DecodeTimes
from pomona_planner.cluster.from_spec import (
    HypotheticalMachine,
    hypothetical_problem,
    link_by_name,
)
from pomona_planner.cluster.machine_catalog import ChipKind, load_machine_catalog
from pomona_planner.cost_model.prediction import Plan, cycle_seconds
from pomona_planner.cost_model.problem import Demand, Link
from pomona_planner.cost_model.tensor_group import Collective, group_time, load_collectives

COLUMNS = ("model", "quant", "machines", "nodes", "link", "engine", "split", "context",
           "decode_tok_s")  # fmt: skip
MAX_FILE_BYTES = 1 << 20
SHORT_CONTEXT = 256
"""Tokens in the cache where the file only says ``short``."""
GGUF_BITS = {
    "q3_k_m": 3.9, "q4_0": 4.5, "q4_k_s": 4.6, "q4_k_m": 4.85, "q5_k_m": 5.7, "q6_k": 6.56,
    "q8_0": 8.5,
}  # fmt: skip
"""Bits per weight of llama.cpp's file types, averaged over a model."""
MLX_BITS = {"mxfp4": 4.25, "nvfp4": 4.5, "mxfp8": 8.25, "bf16": 16.0, "fp16": 16.0, "f16": 16.0}
MIXED = {"mxfp4-q8": (4.25, 8.5), "native 4bit": (4.5, 16.0)}
"""Bits per weight of the experts and of the rest. Kimi K2 Thinking is published with experts of 4
bits, in groups of 32, and everything else in bfloat16 (its config.json)."""

_AFFINE = re.compile(r"~?\b(?:q)?([2-8])(?:[ -]?bits?)?\b")
_CHIP = re.compile(r"\bM(\d)(?: (Pro|Max|Ultra))?\b", re.IGNORECASE)
_MEMORY = re.compile(r"\b(\d{2,3}) ?GB\b(?!/s)", re.IGNORECASE)
_CORES = re.compile(r"\b(\d{2}) ?c(?:ores?)?\b", re.IGNORECASE)
_MILLISECONDS = re.compile(r"([\d.]+) ?ms\b")


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A row of the file. Attributes: as the columns; numbers are left as written."""

    model: str
    quant: str
    machines: str
    nodes: str
    link: str
    engine: str
    split: str
    context: str
    decode_tok_s: str


@dataclass(frozen=True, slots=True)
class Comparable:
    """A row that the planner can predict.

    Attributes:
        machines: of the stages, from head to tail.
        bounds: layer indices of the stages, as in ``Plan``.
        cached: tokens in the cache.
        measured: tokens per second.
        collective: of a tensor group, whose machines hold all layers together; else None.
    """

    row: PublishedRow
    facts: ModelFacts
    machines: tuple[HypotheticalMachine, ...]
    link: Link
    bounds: tuple[int, ...]
    cached: int
    measured: float
    collective: Collective | None = None

    def predict(self, times: DecodeTimes | None = None) -> float:
        """Predicts the tokens per second of one user."""
        demand = Demand(cached_tokens=self.cached)
        problem = hypothetical_problem(self.facts, self.machines, self.link, demand, times=times)
        if self.collective is not None:
            machines = problem.machines
            time = group_time(self.facts, machines[0], len(machines), self.collective, demand)
            return 1 / time.seconds
        plan = Plan(tuple(range(len(self.machines))), self.bounds)
        return 1 / cycle_seconds(problem, plan, 1)

    def error(self, times: DecodeTimes | None = None) -> float:
        """Returns predicted over measured speed, minus one."""
        return self.predict(times) / self.measured - 1


class NotComparableError(Exception):
    """A row that the planner cannot predict; the text is the reason."""


def read_rows(path: Path) -> list[PublishedRow]:
    """Reads the rows of a file.

    Raises:
        BenchError: when the file cannot be read, is larger than ``MAX_FILE_BYTES`` or lacks a
            column.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BenchError(f"{path} is larger than {MAX_FILE_BYTES} bytes; split it")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read: {error}; name a readable TSV file") from error
    reader = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise BenchError(
            f"{path} lacks the column {', '.join(missing)}; its first line must name the columns, "
            "separated by tabs"
        )
    return [
        PublishedRow(**{name: (entry[name] or "").strip() for name in COLUMNS}) for entry in reader
    ]


def separate(
    rows: Sequence[PublishedRow],
) -> tuple[list[Comparable], list[tuple[PublishedRow, str]]]:
    """Separates the rows that can be compared from the others, which come with the reason."""
    found: list[Comparable] = []
    left: list[tuple[PublishedRow, str]] = []
    for row in rows:
        try:
            found.append(comparable(row))
        except NotComparableError as error:
            left.append((row, str(error)))
    return found, left


def comparable(row: PublishedRow) -> Comparable:
    """Interprets a row. Raises NotComparableError with the reason when that is impossible."""
    measured = _measured(row)
    _check_engine(row)
    facts = _facts(row)
    kinds = _kinds(row)
    collective = _collective(row, kinds)
    bounds = _bounds(row, facts, 1 if collective is not None else len(kinds))
    machines = tuple(HypotheticalMachine(kind, max(kind.prices)) for kind in kinds)
    link = _link(row, len(kinds))
    return Comparable(row, facts, machines, link, bounds, _context(row), measured, collective)


def known_model(name: str) -> str | None:
    """Returns the published model that a name begins with, or None; the longest one wins."""
    text = name.lower().rpartition("/")[2].removeprefix("meta-").replace(" ", "-")
    found = [
        known
        for known in published_names()
        if text.startswith(known) and not text[len(known) : len(known) + 1].isalnum()
    ]
    return max(found, key=len, default=None)


def _measured(row: PublishedRow) -> float:
    try:
        measured = float(row.decode_tok_s)
    except ValueError:
        raise NotComparableError("has no decode speed") from None
    if not 0 < measured < 1e6:
        raise NotComparableError(f"{row.decode_tok_s} is not a valid decode speed")
    return measured


def _check_engine(row: PublishedRow) -> None:
    split, engine = row.split.lower(), row.engine.lower()
    if "?" in split:
        raise NotComparableError("the split is not certain")
    if "expert" in split:
        raise NotComparableError("experts are split; the planner splits by layers")
    if "branch" in engine:
        raise NotComparableError("an unreleased branch of the engine")
    if "mtp" in engine or "dflash" in engine or "specul" in engine:
        raise NotComparableError("speculative decoding")
    at_once = re.search(r"(\d+) at once", row.context)
    if at_once and int(at_once[1]) > 1:
        raise NotComparableError("the speed is of several streams together")


def _facts(row: PublishedRow) -> ModelFacts:
    model = known_model(row.model)
    if model is None:
        raise NotComparableError("the model is not in published.toml")
    native = published_facts(model)
    assert native is not None
    if row.quant.lower() == "mxfp4" and "mxfp4" in native.quantization:
        return native
    facts = published_facts(model, *_bits(row.quant))
    assert facts is not None
    return facts


def _bits(quant: str) -> tuple[float, float]:
    """Returns the bits per weight, scales included, of the experts and of the rest."""
    text = quant.lower()
    if text in MIXED:
        return MIXED[text]
    named = GGUF_BITS | MLX_BITS
    for word in re.findall(r"[a-z0-9_]+", text):
        if word in named:
            return named[word], named[word]
    numbers = _AFFINE.findall(text)
    # "8bit (1 node: must be ~4bit)" corrects itself.
    found = numbers[-1] if "must be" in text and numbers else next(iter(numbers), None)
    if found is None or "?" in text or "iq" in text:
        raise NotComparableError(f"{quant or 'nothing'} is not a known quantization")
    return float(found) + 0.5, float(found) + 0.5


def _kinds(row: PublishedRow) -> list[ChipKind]:
    """Returns the machine of each node."""
    text = re.sub(r".*\bdecode ", "", row.machines)
    parts = [part for part in re.split(r"[+,]", text) if _CHIP.search(part)]
    if not parts:
        raise NotComparableError("the machines are not named")
    kinds = [_kind(part) for part in parts]
    nodes = 1 if row.split == "replicas" else int(row.nodes) if row.nodes.isdecimal() else 0
    if not 1 <= nodes <= 16:
        raise NotComparableError(f"{row.nodes or 'nothing'} is not a valid number of nodes")
    if len(kinds) == 1:
        return kinds * nodes
    if len(kinds) != nodes:
        raise NotComparableError(f"{len(kinds)} machines are named for {nodes} nodes")
    return kinds


def _kind(text: str) -> ChipKind:
    """Returns the kind of a text like ``M4 Max 36GB``; memory or GPU cores tell its variant."""
    match, memory, cores = _CHIP.search(text), _MEMORY.search(text), _CORES.search(text)
    assert match is not None
    chip = " ".join(["Apple", f"M{match[1]}", *([match[2].title()] if match[2] else [])])
    kinds = [kind for kind in load_machine_catalog().kinds if kind.chip == chip]
    if not kinds:
        raise NotComparableError(f"{chip} is not in machines.toml")
    by_size = [kind for kind in kinds if memory and int(memory[1]) in kind.prices]
    by_cores = [kind for kind in kinds if cores and int(cores[1]) == kind.gpu_cores]
    return next(iter([*by_cores, *by_size, *kinds]))


def _bounds(row: PublishedRow, facts: ModelFacts, stages: int) -> tuple[int, ...]:
    """Returns the stages' bounds: as stated, like ``layers 20/23``, else even ones."""
    count = facts.layer_count
    if stages == 1:
        return (0, count)
    if "layer" not in row.split and "pipeline" not in row.split:
        raise NotComparableError(f"{row.split or 'no'} split; the planner splits by layers")
    stated = re.search(r"\d+(?:/\d+)+", row.split)
    if stated is None:
        return tuple(round(count * stage / stages) for stage in range(stages + 1))
    sizes = [int(size) for size in stated[0].split("/")]
    if len(sizes) != stages or sum(sizes) != count or 0 in sizes:
        raise NotComparableError(f"{stated[0]} does not split {count} layers on {stages} nodes")
    return tuple(sum(sizes[:stage]) for stage in range(stages + 1))


def _collective(row: PublishedRow, kinds: Sequence[ChipKind]) -> Collective | None:
    """Returns the collective of a tensor group, or None for a row of another split."""
    if "tensor" not in row.split.lower() or len(kinds) == 1:
        return None
    if len({kind.name for kind in kinds}) > 1 or ":" in row.split:
        raise NotComparableError("a tensor group of unequal machines")
    return load_collectives()["jaccl" if "rdma" in row.link.lower() else "ring"]


def _link(row: PublishedRow, stages: int) -> Link:
    text = row.link.lower()
    if stages == 1:
        return link_by_name("tb5")
    names = (("tb5 rdma", "tb5-rdma"), ("tb5", "tb5"), ("tb4", "tb4"), ("10g", "10gbe"),
             ("1g", "1gbe"), ("wifi", "wifi"), ("wi-fi", "wifi"))  # fmt: skip
    name = next((name for mark, name in names if mark in text), None)
    if name is None:
        raise NotComparableError(f"the link {row.link!r} does not name its medium")
    link, ping = link_by_name(name), _MILLISECONDS.search(text)
    return replace(link, latency_s=float(ping[1]) / 2e3) if ping else link


def _context(row: PublishedRow) -> int:
    """Returns the tokens in the cache while the speed was measured."""
    text = row.context.lower()
    generated = re.search(r"\btg(\d+)", text)
    if generated:
        return int(generated[1]) // 2
    match = re.match(r"(\d+)(k?)\b", text)
    return int(match[1]) * (1000 if match[2] else 1) if match else SHORT_CONTEXT
