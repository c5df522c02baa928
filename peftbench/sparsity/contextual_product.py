"""The two products of a feed-forward block with something beside its chosen channels: nothing is added in passes.

With h = x W_I' + b_I of the first layer, a = act(h), and s = x S' + c, the block's answer is ``y = s + a V`` with V the
second layer's chosen columns, transposed. s is made where x is read, and y is added to it by its product; on the way
back ``dx = dh W_I + dy S``, of which the second term is added to the first by its product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from peftbench.methods import frozen


class Both(torch.autograd.Function):
    """``x W' + b`` and ``x S' + c`` with W and S frozen; not differentiable twice."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, beside: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x: (..., k), W: (i, k), b: (i,), S: (d, k), c: (d,), all of one dtype -> (..., i) and (N, d), N tokens."""
        ctx.save_for_backward(weight, beside)
        with torch.autocast(x.device.type, enabled=False):
            return frozen.product(x, weight, bias), frozen.product(x.flatten(0, -2), beside, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_beside: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, b and c, those that are needed."""
        weight, beside = ctx.saved_tensors
        needs_x, _, needs_bias, _, needs_shift = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        dx = None
        if needs_x:
            dx = rows @ weight
            dx = torch.addmm(dx, grad_beside, beside, out=dx).view(*grad.shape[:-1], -1)
        return dx, None, rows.sum(0) if needs_bias else None, None, grad_beside.sum(0) if needs_shift else None


class Onto(torch.autograd.Function):
    """``s + a V`` with V frozen, in the place of s; not differentiable twice."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """s: (N, d), a: (N, i), V: (i, d), all of one dtype -> (N, d)."""
        ctx.save_for_backward(weight)
        ctx.mark_dirty(s)
        with torch.autocast(s.device.type, enabled=False):
            return torch.addmm(s, a, weight, out=s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """ds = dy, da = dy V'."""
        (weight,) = ctx.saved_tensors
        return grad, grad @ weight.T, None
