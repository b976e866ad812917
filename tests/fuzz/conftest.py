"""Divides the time of ``make fuzz`` among the parsers."""

from __future__ import annotations

import os

import pytest

from support.fuzzing import SECONDS_VARIABLE, TOTAL_VARIABLE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    total = os.environ.get(TOTAL_VARIABLE)
    if total and items:
        os.environ[SECONDS_VARIABLE] = str(float(total) / len(items))
