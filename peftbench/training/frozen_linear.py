"""The bias of a frozen linear layer is added by its matrix product, on a CPU in bf16.

torch's own layer writes the bias into every row of the answer first and lets the product add to that: two passes over
the activations, for the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from peftbench.methods import frozen
from peftbench.models.mixin import mix_in, take_out


class Product(torch.autograd.Function):
    """``x W' + b`` with W and b frozen; not differentiable twice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """x: (..., k), weight: (d, k), bias: (d,), all of one dtype -> (..., d)."""
        ctx.save_for_backward(weight)
        return frozen.product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """dx = dy W."""
        (weight,) = ctx.saved_tensors
        dx = grad.flatten(0, -2) @ weight
        return dx.view(*grad.shape[:-1], weight.shape[1]), None, None


class FrozenLinear:
    """Mixed in before the class of a linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., k) -> (..., d)."""
        this: Any = self
        if frozen.compute_dtype(this, x) != this.weight.dtype:
            return super().forward(x)  # type: ignore[misc]  # a mixin
        return Product.apply(x.to(this.weight.dtype), frozen.weight(this), this.bias)


def install(model: nn.Module) -> None:
    """Do so in every frozen layer that is held in bf16 and has a bias, in place, if there is such a product."""
    if not frozen.adds_bias():
        return
    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D) and _is_meant(module):
            mix_in(module, FrozenLinear)


def uninstall(model: nn.Module) -> None:
    """Undo `install`, once anything that was mixed in later is taken out."""
    for module in model.modules():
        take_out(module, FrozenLinear)


def _is_meant(layer: Any) -> bool:
    return (
        layer.bias is not None
        and layer.weight.dtype == layer.bias.dtype == torch.bfloat16
        and not any(parameter.requires_grad for parameter in layer.parameters())
    )
