"""What becomes of a run's error."""

from __future__ import annotations

import pytest
import torch

from peftbench.sweep.child import classify


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        # Of torch's AcceleratorError, which is a RuntimeError: what the driver could not give.
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:20],
)
def test_memory_that_ran_out_is_known_whoever_says_it(error: Exception) -> None:
    assert classify(error)[0] == "oom"


def test_an_error_of_a_gpu_is_not_taken_for_its_memory() -> None:
    assert classify(RuntimeError("CUDA error: an illegal memory access was encountered"))[0] == "failed"
