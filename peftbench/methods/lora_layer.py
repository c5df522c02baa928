"""LoRA's layer: ``y = x W0' + b + s (x A') B'``, with nothing computed but matrix products.

PEFT's own layer computes the pair in float32 modules: under autocast the input is cast there and back, the pair's
answer is scaled and added to the base's in passes of their own, and on the way back both gradients of x are added in
one more. Here the pair's product is added to the base's by the product itself, forward and backward. d = out features,
k = in features, N = tokens, H = x A' (N, r), C = s B, G = dL/dy; in the backward pass

    dX = G W0 + (G C) A,   dA = (G C)' X,   dB = s G' H.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from peftbench.methods import frozen
from peftbench.methods.four_bit import answer
from peftbench.methods.injection import ADAPTER


class LowRankLinear(torch.autograd.Function):
    """``x W0' + b + s (x A') B'``; not differentiable twice. x: (..., k) sets the dtype, A: (r, k), B: (d, r)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        base: Callable[[torch.Tensor], torch.Tensor],
        source: Callable[[], torch.Tensor],
        scale: float,
    ) -> torch.Tensor:
        """base: computes ``x W0' + b`` into a new tensor; source: gives W0 (d, k) in x's dtype. Returns y: (..., d)."""
        ctx.dtypes, ctx.source, ctx.scale = (a.dtype, b.dtype), source, scale
        with torch.autocast(x.device.type, enabled=False):
            a, scaled = a.to(x.dtype), (b * scale).to(x.dtype)
            hidden, y = functional.linear(x, a), base(x)
            rows = y.view(-1, y.shape[-1])
            torch.addmm(rows, hidden.flatten(0, -2), scaled.T, out=rows)
        ctx.save_for_backward(x, a, scaled, hidden)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, A and B, those that are needed."""
        x, a, scaled, hidden = ctx.saved_tensors
        needs_x, needs_a, needs_b = ctx.needs_input_grad[:3]
        dx, da, db = None, None, None
        with torch.autocast(x.device.type, enabled=False):
            rows = grad.flatten(0, -2)
            thin = rows @ scaled
            if needs_a:
                da = (thin.T @ x.flatten(0, -2)).to(ctx.dtypes[0])
            if needs_b:
                db = (rows.T @ hidden.flatten(0, -2)).to(ctx.dtypes[1]).mul_(ctx.scale)
            if needs_x:
                dx = rows @ ctx.source()
                dx = torch.addmm(dx, thin, a, out=dx).view(x.shape)
        return dx, da, db, None, None, None


class Fused:
    """What replaces the forward pass of PEFT's LoRA layers; mixed in before one of them."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x: (..., k) -> (..., d)."""
        this: Any = self
        if args or kwargs or not self.is_affine():
            return Linear.forward(this, x, *args, **kwargs)
        base = this.get_base_layer()
        dtype = frozen.compute_dtype(base, x)
        # A 4-bit layer multiplies by a kernel of its own.
        product = base if isinstance(this, Linear4bit) else partial(_dense, base)
        weights = (this.lora_A[ADAPTER].weight, this.lora_B[ADAPTER].weight)
        y = LowRankLinear.apply(x.to(dtype), *weights, product, partial(_weight, base, dtype), this.scaling[ADAPTER])
        return answer(y, x) if isinstance(this, Linear4bit) else y

    def is_affine(self) -> bool:
        """Whether the layer computes now what `LowRankLinear` does, and no more: the same for every token."""
        this: Any = self
        dropout = this.lora_dropout[ADAPTER]
        return not (
            this.disable_adapters
            or this.merged
            or this.lora_variant
            or this.lora_bias.get(ADAPTER)
            or (this.training and isinstance(dropout, nn.Dropout))
            or getattr(this.get_base_layer(), "in_part", False)
        )


def _weight(base: Any, dtype: torch.dtype) -> torch.Tensor:
    return frozen.weight(base, dtype).to(dtype)


def _dense(base: Any, x: torch.Tensor) -> torch.Tensor:
    return frozen.product(x, _weight(base, x.dtype), None if base.bias is None else base.bias.to(x.dtype))


class FusedLinear(Fused, Linear):
    """On a dense ``nn.Linear`` or GPT-2's ``Conv1D``."""


class FusedLinear4bit(Fused, Linear4bit):
    """On a 4-bit linear layer, elsewhere as on a dense one too: without PEFT's copy of the base's output."""


FUSED: dict[type[nn.Module], type[nn.Module]] = {Linear: FusedLinear, Linear4bit: FusedLinear4bit}


def fuse(model: nn.Module) -> None:
    """Turn PEFT's LoRA layers into their fused subclasses, in place: parameters and hooks stay as they are."""
    for module in model.modules():
        if (fused := FUSED.get(type(module))) is not None:
            module.__class__ = fused
