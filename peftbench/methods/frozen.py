"""What a fused layer must know of the frozen linear layer that it is around: dense, GPT-2's Conv1D, or 4-bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from peftbench.methods.quantization import dense_weight


def weight(layer: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    """W0, shape (d, k): by reference where it is dense, else dequantized to ``dtype`` (None: float32)."""
    found = dense_weight(layer.weight, dtype)
    return found.T if isinstance(layer, Conv1D) else found


def compute_dtype(layer: Any, x: torch.Tensor) -> torch.dtype:
    """The dtype to multiply in: what a 4-bit layer was told, else autocast's, else that of the weight or of ``x``."""
    dense = layer.weight.is_floating_point()
    if not dense and layer.compute_dtype is not None:
        return layer.compute_dtype
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return layer.weight.dtype if dense else x.dtype


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x W' + b`` into a new tensor. x: (..., k), weight: (d, k), bias: (d,), all of one dtype -> (..., d).

    On a CPU in bf16 by the oneDNN product that adds the bias where it has the sums; torch.compile finds it by itself.
    No view, as the answer of a module is none: autograd lets nobody write into a view that a function of its own made,
    and some of PEFT's layers (AdaLoRA's) add to the answer in place.
    """
    if torch.compiler.is_compiling():
        return functional.linear(x, weight, bias)
    rows = x.flatten(0, -2)
    if bias is not None and x.dtype == torch.bfloat16 and x.device.type == "cpu" and adds_bias():
        y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    else:
        y = functional.linear(rows, weight, bias)
    return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))


@cache
def adds_bias() -> bool:
    """Whether this torch has such a product, and this processor can do it; it is none of torch's public functions."""
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    try:
        return bool(torch.ops.mkldnn._linear_pointwise(one, one, one[0], "none", [], "") == 2)
    except (AttributeError, RuntimeError):
        return False
