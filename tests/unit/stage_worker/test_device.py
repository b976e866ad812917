"""Tests reading MLX's device info."""

from __future__ import annotations

import psutil
import pytest

from pomona_stage_worker.hardware.device import Device, device_of, this_device

GIB = 1 << 30
METAL = {
    "architecture": "applegpu_g16s",
    "device_name": "Apple M4 Pro",
    "max_buffer_size": 36 * GIB,
    "max_recommended_working_set_size": 48 * GIB,
    "memory_size": 64 * GIB,
    "resource_limit": 499000,
}
CUDA = {
    "architecture": "sm_90",
    "device_name": "NVIDIA H100 80GB HBM3",
    "compute_capability_major": 9,
    "compute_capability_minor": 0,
    "pci_bus_id": "0000:00:06.0",
    "total_memory": 85520809984,
    "free_memory": 84465090560,
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
}
"""Device info from MLX 0.32.4 on an H100, except the uuid."""


def test_metal_leaves_a_twentieth_of_its_recommended_working_set_free() -> None:
    usable = int(48 * GIB * 0.95)
    found = device_of("metal", lambda: METAL)
    assert found == Device("metal", "Apple M4 Pro", usable, 48 * GIB)


def test_cuda_keeps_a_reserve_and_the_memory_of_other_processes() -> None:
    assert device_of("cuda", lambda: CUDA) == Device("cuda", "NVIDIA H100 80GB HBM3", 76968728985)
    shared = CUDA | {"free_memory": 20 * GIB}
    assert device_of("cuda", lambda: shared).usable_bytes == 20 * GIB


def test_cuda_without_a_memory_size_is_an_error() -> None:
    with pytest.raises(KeyError):
        device_of("cuda", lambda: {"device_name": "x"})


def test_this_machine_has_a_device() -> None:
    found = this_device()
    assert found.kind in ("metal", "cuda", "cpu")
    assert 0 < found.usable_bytes <= psutil.virtual_memory().total or found.kind == "cuda"
