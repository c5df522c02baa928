"""``trainer.compile``: the forward and backward pass of a training step as kernels that torch.compile has made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from peftbench.errors import Skip

TRACED = "from user code:"
"""What torch adds to an error of whatever type that was raised while it made a graph."""


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` as a callable to be compiled when it is first called, for batches of any length.

    Parameters are shared with ``model``, which itself stays as it is: validation, profile and merge use that one.

    Raises:
        Skip: on a CPU without a C++ compiler.
    """
    if device.type == "cpu":
        _need_a_compiler()
    return torch.compile(model, dynamic=True)  # type: ignore[return-value]


@contextmanager
def saying_what_cannot_be_compiled() -> Iterator[None]:
    """What torch raises inside because it can make no graph, told from what a graph raises that it has made.

    Raises:
        Skip: with the first line of its reason.
    """
    try:
        yield
    except Exception as error:
        # A network that fails by itself is traced with stand-ins for tensors, and this is what becomes of its error.
        if TRACED not in str(error) or type(error).__name__ == "TorchRuntimeError":
            raise
        reason = str(error).splitlines()[0][:200]
        raise Skip(f"torch cannot compile this network ({reason}): write trainer.compile=false") from error


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
