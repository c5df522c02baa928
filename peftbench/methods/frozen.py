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
    """
    plain = bias is None or x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.compiler.is_compiling()
    if not plain and adds_bias():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return functional.linear(x, weight, bias)


@cache
def adds_bias() -> bool:
    """Whether this torch has such a product, and this processor can do it; it is none of torch's public functions."""
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    try:
        return bool(torch.ops.mkldnn._linear_pointwise(one, one, one[0], "none", [], "") == 2)
    except (AttributeError, RuntimeError):
        return False
