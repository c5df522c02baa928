"""The frozen linear layers of a network, dense, GPT-2's Conv1D, or 4-bit: how they are held, and multiplied by."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from peftbench.methods.quantization import dense_weight


def hold_in(model: nn.Module, dtype: torch.dtype) -> int:
    """Hold the frozen linear layers in the dtype that autocast multiplies them in; returns the bytes that this frees.

    Autocast would round the same weights to the same numbers at every step. Embeddings, norms and what is trained stay
    in float32; a weight shared with an embedding (a tied decoder) stays with it, and 4-bit weights are left alone.
    """
    shared = {id(p) for m in model.modules() if not isinstance(m, nn.Linear | Conv1D) for p in m.parameters(False)}
    freed = 0
    for module in model.modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.dtype == torch.float32 and not parameter.requires_grad and id(parameter) not in shared:
                before = parameter.nbytes
                parameter.data = parameter.data.to(dtype)
                freed += before - parameter.nbytes
    return freed


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
