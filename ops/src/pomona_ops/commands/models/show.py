"""``pomona models show``: prints the facts of a model from which the planner plans."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from pomona.models import LayerFacts, ModelFacts, read_facts
from pomona.models.published import published_facts
from pomona_ops.units import in_bytes


def facts_of(model: str) -> ModelFacts:
    """Returns the facts of a known name, a folder, a file or a hub id. Raises ModelError."""
    return published_facts(model) or read_facts(model)


def facts_as_json(facts: ModelFacts) -> dict[str, Any]:
    """Returns the facts and derived values in the form that ``--json`` prints."""
    layers = [
        {
            **asdict(layer),
            "active_bytes": layer.active_bytes,
            "active_parameters": layer.active_parameters,
        }
        for layer in facts.layers
    ]
    return {
        **asdict(facts),
        "path": str(facts.path),
        "layers": layers,
        "layer_count": facts.layer_count,
        "stored_bytes": facts.stored_bytes,
        "active_bytes": facts.active_bytes,
        "parameters": facts.parameters,
        "active_parameters": facts.active_parameters,
        "kv_values_per_token": facts.kv_values_per_token,
        "kv_bytes_per_token": 2 * facts.kv_values_per_token,
    }


def print_facts(facts: ModelFacts, console: Console) -> None:
    """Prints the facts as tables; equal layers share a row."""
    table = Table(title=facts.name, title_justify="left", box=None, show_header=False)
    table.add_column(style="bold")
    for name, value in _lines(facts):
        if value:
            table.add_row(name, value)
    console.print(table)
    layers = Table("layers", "bytes", "active", "cache a token", box=None, header_style="bold")
    kinds: dict[tuple[int, ...], list[int]] = {}
    for index, layer in enumerate(facts.layers):
        kinds.setdefault(_layer_kind(layer), []).append(index)
    for members in kinds.values():
        layer, label = facts.layers[members[0]], _numbers(members)
        window = f", {layer.window} tokens at most" if layer.window else ""
        layers.add_row(
            label,
            in_bytes(layer.stored_bytes),
            in_bytes(layer.active_bytes),
            in_bytes(2 * layer.kv_values_per_token) + window,
        )
    console.print(layers)


def _numbers(members: list[int]) -> str:
    """Formats layer indices as a range, or as the first four and a count."""
    if members[-1] - members[0] == len(members) - 1:
        return f"{members[0]} to {members[-1]}" if len(members) > 1 else str(members[0])
    listed = ", ".join(map(str, members[:4]))
    return f"{listed}{', ...' if len(members) > 4 else ''} ({len(members)})"


def _layer_kind(layer: LayerFacts) -> tuple[int, ...]:
    """Key of equal layers: quantised layers of one kind differ by a scale or two."""
    size = max(layer.stored_bytes, 1)
    digits = len(str(size)) - 2
    return (round(size, -digits), layer.kv_values_per_token, layer.window, layer.idle_bytes > 0)


def _lines(facts: ModelFacts) -> list[tuple[str, str]]:
    cuts = facts.legal_cuts
    active = facts.active_parameters
    return [
        ("architecture", facts.architecture),
        ("parameters", f"{facts.parameters / 1e9:.2f} billion"),
        ("active", f"{active / 1e9:.2f} billion" if active != facts.parameters else ""),
        ("quantization", facts.quantization),
        ("size", in_bytes(facts.stored_bytes)),
        ("read a token", in_bytes(facts.active_bytes)),
        ("embedding, head", f"{in_bytes(facts.embedding.stored_bytes)}, "
                            f"{in_bytes(facts.head.stored_bytes)}"
                            + (" (tied)" if facts.tied_embedding else "")),
        ("cache a token", f"{in_bytes(2 * facts.kv_values_per_token)} in 16 bits"),
        ("context", f"{facts.context_length} tokens"),
        ("cuts", "between any two layers" if cuts is None
                 else ("none: one stage only" if not cuts else f"before layers {list(cuts)}")),
        ("tokenizer", facts.tokenizer),
        ("chat template", "yes" if facts.has_chat_template else "no"),
        ("tool calls", facts.tool_parser),
        ("reasoning", facts.reasoning_parser),
        ("embeddings", facts.pooling + (", of length 1" if facts.normalized else "")),
        ("sampling", ", ".join(f"{k} {v:g}" for k, v in facts.sampling.items())),
        ("not executed", f"code in {', '.join(facts.unused_code)}"
                      if facts.unused_code else ""),
        ("from", facts.source or str(facts.path)),
        ("computed", ", ".join(facts.computed)),
    ]  # fmt: skip
