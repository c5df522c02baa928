"""The two products of a feed-forward block with something beside its chosen channels: nothing is added in passes.

With h = x W_I' + b_I of the first layer, a = act(h), and s = x S' + c, the block's answer is ``y = s + a V`` with V the
second layer's chosen columns, transposed. s is made where x is read, and y is added to it by its product; on the way
back ``dx = dh W_I + dy S``, of which the second term is added to the first by its product. Tokens that are computed by
all channels leave the block's input here and enter its answer here, as do their gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from peftbench.methods import frozen


class Both(torch.autograd.Function):
    """``x W' + b`` and ``x S' + c`` with W and S frozen, and some rows of x; not differentiable twice."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, beside: Tensor, shift: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x: (..., k), W: (i, k), b: (i,), S: (d, k), c: (d,), all of one dtype; rows: which of the N tokens are read,
        int64. Returns (..., i), (N, d) and (rows, k). What is made of the first two at those rows is not used."""
        ctx.save_for_backward(weight, beside, rows)
        tokens = x.flatten(0, -2)
        with torch.autocast(x.device.type, enabled=False):
            h, s = frozen.product(x, weight, bias), frozen.product(tokens, beside, shift)
        return h, s, None if rows is None else tokens.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_beside: Tensor, grad_read: Any) -> tuple[Tensor | None, ...]:
        """Gradients of x, b and c, those that are needed."""
        weight, beside, rows = ctx.saved_tensors
        needs_x, _, needs_bias, _, needs_shift, _ = ctx.needs_input_grad
        dx, db, dc = None, None, None
        if needs_x:
            dx = grad.flatten(0, -2) @ weight
            torch.addmm(dx, grad_beside, beside, out=dx)
            dx = (dx if rows is None else dx.index_copy_(0, rows, grad_read)).view(*grad.shape[:-1], -1)
        if needs_bias:
            db = grad.flatten(0, -2).sum(0)
        if needs_shift:
            dc = grad_beside.sum(0)
            dc = dc if rows is None else dc - grad_beside.index_select(0, rows).sum(0)
        return dx, None, db, None, dc, None


class Onto(torch.autograd.Function):
    """``s + a V`` with V frozen, in the place of s, and other answers in some rows; not differentiable twice."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, a: Tensor, weight: Tensor, others: Tensor | None, rows: Tensor | None) -> Tensor:
        """s: (N, d), a: (N, i), V: (i, d), others: (rows, d), all of one dtype -> (N, d)."""
        ctx.save_for_backward(weight, rows)
        ctx.mark_dirty(s)
        with torch.autocast(s.device.type, enabled=False):
            torch.addmm(s, a, weight, out=s)
        return s if rows is None or others is None else s.index_copy_(0, rows, others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """ds = dy (`Both` leaves those rows out), da = dy V' and 0 in those rows."""
        weight, rows = ctx.saved_tensors
        da = grad @ weight.T
        if rows is None:
            return grad, da, None, None, None
        return grad, da.index_fill_(0, rows, 0), None, grad.index_select(0, rows), None
