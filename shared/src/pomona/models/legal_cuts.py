"""Derives from a config.json the layers before which a model may be cut, without MLX.

For the planner. The stage worker finds the same cuts from the loaded model in
``pomona_stage_worker/slicing/legal_cuts.py``; the tests compare both.
"""

from __future__ import annotations

from pomona.models.architecture import TextConfig


def legal_cuts(text: TextConfig) -> tuple[int, ...] | None:
    """Returns the layers before which the model may be cut, or None for all layers.

    A cut must not separate a layer from an earlier one whose keys and values it reads.
    """
    count = text.layer_count
    if text.number("num_loops", "loop_num", default=1) > 1:
        return ()
    if text.family in ("iquestloopcoder", "olmo"):
        return ()
    if text.family == "afm7":
        return tuple(range(1, count - text.number("num_kv_reuse_layers")))
    if text.family == "deepseek_v41":
        readers = _readers_of_compressed(text)
    else:
        shared = text.number("num_kv_shared_layers", default=0)
        if not shared or not text.layer_types:
            return None
        first = count - shared
        last_of_type = {kind: i for i, kind in enumerate(text.layer_types[:first])}
        readers = [
            (last_of_type.get(text.layer_types[i], first - 1), i) for i in range(first, count)
        ]
    return tuple(
        cut
        for cut in range(1, count)
        if not any(source < cut <= reader for source, reader in readers)
    )


def _readers_of_compressed(text: TextConfig) -> list[tuple[int, int]]:
    """Returns (source, reader) pairs of layers. The reader uses compressed keys and values, or
    index keys, of the source."""
    ratios = text.numbers("compress_ratios")
    kv_sources = {x for x in text.numbers("kv_source_layer_ids") if x < len(ratios) and ratios[x]}
    index_sources = set(text.numbers("index_source_layer_ids"))
    found: list[tuple[int, int]] = []
    for layer in range(min(text.layer_count, len(ratios))):
        if not ratios[layer]:
            continue
        sets = [kv_sources, kv_sources & index_sources] if layer in index_sources else [kv_sources]
        for sources in sets:
            found += [(max(x), layer) for x in [[s for s in sources if s <= layer]] if x]
    return found
