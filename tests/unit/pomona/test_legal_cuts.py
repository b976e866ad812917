"""Legal cuts from a config.json: equal to those that slicing finds in the loaded model."""

from __future__ import annotations

import pytest

from pomona.models.legal_cuts import legal_cuts
from pomona_stage_worker import slicing
from support.slicing.families import FAMILIES, build
from support.slicing.table import TABLE
from support.text_configs import text_config_of


@pytest.mark.parametrize("row", FAMILIES)
def test_legal_cuts_equal_those_that_slicing_finds(row: str) -> None:
    text = text_config_of(row)
    found = legal_cuts(text)
    every = "all" if found is None or len(found) == text.layer_count - 1 else ""
    cuts = every or ", ".join(map(str, found or ())) or "none"
    # The table holds the result of slicing, which the tests of slicing check.
    assert f"| {row} | {text.layer_count} | {cuts} |" in TABLE.read_text()


@pytest.mark.parametrize(
    ("kv_sources", "index_sources"),
    [([0, 2, 5], [0, 3, 5]), ([1], [1, 4]), ([1, 4], [1]), ([3], [3])],
)
def test_no_cut_separates_compressed_keys_from_their_readers(
    kv_sources: list[int], index_sources: list[int]
) -> None:
    own = {"kv_source_layer_ids": kv_sources, "index_source_layer_ids": index_sources}
    own["compress_ratios"] = [2, 2, 2, 0, 2, 2]
    assert legal_cuts(text_config_of("deepseek_v41", **own)) == tuple(
        slicing.legal_cuts(build("deepseek_v41", **own))
    )
