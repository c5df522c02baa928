"""Floating-point operations of training, counted op by op as they run and not taken from a formula."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

from peftbench.measuring.mode import mode
from peftbench.tasks.base import Batch

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils._python_dispatch import TorchDispatchMode

PRODUCT = re.compile(r"(attention|matmul|linear|conv|einsum|lstm|gru|rnn|flex)|(mm|gemm|gemv|mv|dot|ger)(_|$|\d)")
"""Names of ops that multiply matrices: one of them without a formula makes the count wrong."""
HARMLESS = re.compile(r"(de)?quantize_")
"""Ops of bitsandbytes that move and scale numbers but multiply no matrices."""
NATIVE = ("aten", "prim", "prims", "profiler")


def flops_per_token(
    model: nn.Module, batch: Batch, loss_fn: Callable[[nn.Module, Batch], torch.Tensor]
) -> float | None:
    """``flops/train_per_token``: FLOPs of one forward and one backward pass over ``batch`` / its real tokens.

    One multiply-add is two FLOPs. Matrix products, convolutions and attention count, in forward, backward and in any
    recomputation; element-wise work and the optimizer do not. Products with padding are in the numerator (they are
    computed) while the denominator has real tokens only. Frozen weights cost no weight gradient, as the count shows.

    The model is in train mode meanwhile. Nothing is changed: modes, gradients, buffers and random-number generators
    are afterwards what they were. Call it in the autocast context of training, with a training batch on the model's
    device. The penalty of a sparsity is not part of it.

    Returns:
        FLOP a token, or None if the model ran a matrix product whose FLOPs are unknown, or there are no real tokens.
    """
    from torch.utils.flop_counter import FlopCounterMode

    if batch.real_tokens == 0:
        return None
    watch, counter = _watch(), FlopCounterMode(display=False, custom_mapping=_formulas())
    # The counter is the inner mode: it splits composite ops first, and the watch sees only what really runs.
    with _untouched(model), watch, counter:
        loss_fn(model, batch).backward()
    if watch.unknown:  # type: ignore[attr-defined]  # its class is made in `_watch`, when torch is there
        return None
    return counter.get_total_flops() / batch.real_tokens


def _formulas() -> dict[Any, Callable[..., int]]:
    """Formulas that torch's counter lacks: attention on the CPU, oneDNN's product, and those with 4-bit weights."""
    import torch

    found: dict[Any, Callable[..., int]] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        torch.ops.aten.mv: _two_per_element,
        torch.ops.aten.dot: _two_per_element,
    }
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        found[torch.ops.mkldnn._linear_pointwise] = _linear
    for name in ("gemm_4bit", "gemv_4bit"):
        # Defined once bitsandbytes is imported; without it no such op can run.
        if hasattr(torch.ops.bitsandbytes, name):
            found[getattr(torch.ops.bitsandbytes, name)] = _four_bit
    return found


def _attention(query_shape: Any, key_shape: Any, value_shape: Any, *args: Any, **kwargs: Any) -> int:
    from torch.utils.flop_counter import sdpa_flop_count

    return sdpa_flop_count(query_shape, key_shape, value_shape)


def _attention_backward(grad_shape: Any, query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    from torch.utils.flop_counter import sdpa_backward_flop_count

    return sdpa_backward_flop_count(grad_shape, query_shape, key_shape, value_shape)


def _four_bit(a_shape: Any, b_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
    """``A W^T`` with A: (..., k) and W: (d, k) packed to 4 bits; the scaling back to floats is element-wise."""
    return 2 * prod(a_shape) * int(weight_shape[0])


def _linear(x_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
    """``x W'`` with x: (..., k) and W: (d, k)."""
    return 2 * prod(x_shape) * int(weight_shape[0])


def _two_per_element(a_shape: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(a_shape)


def _watch() -> TorchDispatchMode:
    """A mode whose ``unknown`` collects the ops that multiply matrices and are not counted."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    counted = {*flop_registry, *_formulas()}

    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.unknown: set[str] = set()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if getattr(func, "overloadpacket", func) not in counted and not _costs_nothing(func):
                self.unknown.add(str(func))
            return func(*args, **(kwargs or {}))

    return Watch()


def _costs_nothing(func: Any) -> bool:
    """Whether an op without a formula multiplies no matrices: judged by name for torch's own, never for others."""
    namespace, _, name = str(getattr(func, "overloadpacket", func)).partition(".")
    if namespace in NATIVE:
        return PRODUCT.search(name) is None
    return namespace == "bitsandbytes" and HARMLESS.match(name) is not None


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Train mode inside; modes, gradients, buffers and random-number generators (CPU, CUDA) are put back afterwards."""
    import torch

    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]  # running means, say
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=devices), mode(model, training=True):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
