"""Ollama's format of parameter counts and quantisations."""

from __future__ import annotations

import pytest

from pomona_gateway.http.ollama.models import human_number, quantization_level


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (134_515_008, "134.52M"),
        (999_885_952, "999.89M"),
        (8_030_261_248, "8.0B"),
        (30_532_122_624, "30.5B"),
        (8_000_000_000, "8B"),
        (671_026_419_200, "671.0B"),
        (12_000_000, "12M"),
        (45_600, "46K"),
        (3, "3"),
    ],
)
def test_parameter_count_has_ollamas_format(parameters: int, text: str) -> None:
    assert human_number(parameters) == text


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ("bfloat16", "BF16"),
        ("float16", "F16"),
        ("float32", "F32"),
        ("4-bit affine, groups of 64", "Q4"),
        ("4-bit affine, groups of 32, mixed", "Q4"),
        ("8-bit mxfp8, groups of 32", "MXFP8"),
        ("mxfp4", "MXFP4"),
        ("q4_k_m", "Q4_K_M"),
        ("fp8", "FP8"),
        ("", ""),
    ],
)
def test_quantisation_has_ollamas_format(stored: str, text: str) -> None:
    assert quantization_level(stored) == text
