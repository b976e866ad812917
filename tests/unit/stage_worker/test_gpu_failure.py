"""Only an error of the GPU's command queue counts as one after which nothing can be computed."""

from __future__ import annotations

import pytest

from pomona_stage_worker.hardware.gpu_failure import is_gpu_failure


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError(
                "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
                "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)"
            ),
            True,
        ),
        (
            RuntimeError(
                "[METAL] Command buffer execution failed: Insufficient Memory "
                "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
            ),
            True,
        ),
        (RuntimeError("cudaStreamSynchronize failed: cudaErrorIllegalAddress"), True),
        (RuntimeError("[matmul] Last dimension of first input must match"), False),
        (ValueError("Command buffer execution failed"), False),
    ],
)
def test_gpu_failures_are_recognised(error: Exception, expected: bool) -> None:
    assert is_gpu_failure(error) is expected
