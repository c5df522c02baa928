"""``trainer.compile``: the forward and backward pass of a training step as kernels that torch.compile has made."""

from __future__ import annotations

import torch
from torch import nn

from peftbench.errors import Skip


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` as a callable to be compiled when it is first called, for batches of any length.

    Parameters are shared with ``model``, which itself stays as it is: validation, profile and merge use that one.

    Raises:
        Skip: on a CPU without a C++ compiler.
    """
    if device.type == "cpu":
        _need_a_compiler()
    return torch.compile(model, dynamic=True)  # type: ignore[return-value]


def _need_a_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise Skip(
            "trainer.compile=true makes C++ code on the CPU, and no C++ compiler was found: "
            "install g++ (or name one in CXX), or write trainer.compile=false"
        ) from error
