"""Recognises errors of the GPU's command queue, after which a process cannot compute any more."""

from __future__ import annotations

import re
from typing import Final

_MESSAGES: Final = re.compile(
    r"command buffer execution failed|kIOGPUCommandBuffer|MTLCommandBufferError"
    r"|cudaError(?!MemoryAllocation)\w+|CUDA error|CUDA_ERROR_\w+",
    re.IGNORECASE,
)


def is_gpu_failure(error: BaseException) -> bool:
    """Returns whether MLX raised the error because a command of the GPU failed.

    MLX reports it as a RuntimeError, which only its text tells from others.
    """
    return isinstance(error, RuntimeError) and _MESSAGES.search(str(error)) is not None
