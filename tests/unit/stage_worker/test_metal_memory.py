"""Calls by which memory is wired and given back, in order; their effect needs a Mac."""

from __future__ import annotations

import mlx.core as mx
import pytest

from pomona_stage_worker.hardware.metal_memory import GIB, MetalMemory


class RecordingAllocator:
    """Records the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def set_wired_limit(self, limit: int) -> int:
        self.calls.append(("set_wired_limit", limit))
        return 0

    def set_cache_limit(self, limit: int) -> int:
        self.calls.append(("set_cache_limit", limit))
        return 0

    def clear_cache(self) -> None:
        self.calls.append(("clear_cache", 0))

    def synchronize(self) -> None:
        self.calls.append(("synchronize", 0))


@pytest.mark.parametrize(("memory_gib", "cache_gib"), [(16, 1), (64, 2), (512, 2)])
def test_the_cache_is_limited_by_the_size_of_the_machine(memory_gib: int, cache_gib: int) -> None:
    allocator = RecordingAllocator()
    MetalMemory(allocator, 12 * GIB, memory_gib * GIB)
    assert allocator.calls == [("set_cache_limit", cache_gib * GIB)]


def test_the_bytes_of_the_weights_are_wired_until_they_are_unloaded() -> None:
    allocator = RecordingAllocator()
    memory = MetalMemory(allocator, 100 * GIB, 128 * GIB)
    memory.set_weights(40 * GIB)
    memory.set_weights(40 * GIB)
    assert memory.wired_bytes == 40 * GIB
    memory.set_weights(0)
    assert allocator.calls[1:] == [("set_wired_limit", 40 * GIB), ("set_wired_limit", 0)]


def test_a_reserve_of_the_working_set_is_never_wired() -> None:
    memory = MetalMemory(RecordingAllocator(), 100 * GIB, 128 * GIB)
    memory.set_weights(99 * GIB)
    assert memory.wired_bytes == int(100 * GIB * 0.95)


def test_nothing_is_wired_when_the_setting_is_off() -> None:
    allocator = RecordingAllocator()
    MetalMemory(allocator, 100 * GIB, 128 * GIB, wires=False).set_weights(40 * GIB)
    assert "set_wired_limit" not in dict(allocator.calls)


def test_buffers_are_given_back_only_after_the_stream_is_synchronized() -> None:
    allocator = RecordingAllocator()
    MetalMemory(allocator, 100 * GIB, 128 * GIB).release()
    assert [name for name, _ in allocator.calls[1:]] == ["synchronize", "clear_cache"]


def test_mlx_has_every_function_that_is_called() -> None:
    for name in ("set_wired_limit", "set_cache_limit", "clear_cache", "synchronize"):
        assert callable(getattr(mx, name))
