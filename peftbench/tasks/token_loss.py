"""Cross entropy of a frozen output layer, of which no batch of logits is ever whole.

Logits are as wide as the vocabulary: for a batch of 8 × 128 tokens of GPT-2 they and their gradient take 200 MB each,
which a network as small as these spends most of its time to write and read. A layer that is not trained needs of them
the loss and the gradient of its input only, and both are found rows by rows on the way forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LOGITS = {"cpu": 6 * 2**20}
"""At a time: 24 MB in float32, which the C allocator keeps for the next ones (see `peftbench.measuring.heap`)."""
LOGITS_ELSEWHERE = 2**27
FEWEST_ROWS = 64
"""Predicted tokens at a time at least, to make good use of each read of the weight."""


class TokenLoss(torch.autograd.Function):
    """``l_i = log sum exp(z_i) - z_i[t_i]`` with ``z = x W' + b``; with p = softmax(z), ``dx_i = g_i (p_i - e_t) W``.

    Not differentiable twice. Logits are in x's dtype, as the layer itself would answer, what is made of them in float32
    at least.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """x: (n, d); targets t: int64 (n,); weight W: (V, d) and bias b: (V,), frozen. Returns l: (n,), nats."""
        exact = torch.promote_types(x.dtype, torch.float32)
        losses = x.new_empty(len(x), dtype=exact)
        gradient = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        rows = max(FEWEST_ROWS, LOGITS.get(x.device.type, LOGITS_ELSEWHERE) // len(weight))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            true = targets[part, None]
            logits = functional.linear(x[part], weight, bias).to(exact)
            total = logits.logsumexp(-1, keepdim=True)
            losses[part] = (total - logits.gather(-1, true)).squeeze(-1)
            if gradient is not None:
                shares = logits.sub_(total).exp_()
                shares.scatter_add_(-1, true, shares.new_full(true.shape, -1))
                torch.mm(shares.to(x.dtype), weight, out=gradient[part])
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of x."""
        (gradient,) = ctx.saved_tensors
        return grad[:, None].to(gradient.dtype) * gradient, None, None, None


def token_losses(layer: nn.Linear, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`TokenLoss` of a linear layer, in the dtype that it would be computed in."""
    place = x.device.type
    dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else layer.weight.dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    with torch.autocast(place, enabled=False):
        return TokenLoss.apply(x.to(dtype), targets, layer.weight.to(dtype), bias)


def fits(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is a linear layer and nothing else, and not trained."""
    return type(layer) is nn.Linear and not any(parameter.requires_grad for parameter in layer.parameters())


@contextmanager
def passed_through(layer: nn.Module) -> Iterator[None]:
    """Inside, ``layer`` answers what it is given."""
    layer.forward = lambda x: x
    try:
        yield
    finally:
        del layer.forward
