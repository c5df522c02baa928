"""HiRA's layer: ``y = x (W0 * (1 + s B A))' + b``, elementwise product, with three matrix products a step.

PEFT's own layer computes the base product and a second one with ``W0 * BA``, which autograd keeps: five products and
4 d k bytes a layer. Here E = W0 * (1 + s B A) is built where it is used and freed at once, and autograd keeps x, A
and B only. d = out features, k = in features, N = tokens, G = dL/dy; in the backward pass

    dX = G E,   H = G' X,   P = W0 * H,   dB = s P A',   dA = s B' P.

In bf16 E is computed from the weight's own dtype and rounded once. What that rounding takes from an update smaller
than 2^-9 of its weight is the same as in any network merged in bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft.tuners.hira.bnb import Linear4bit
from peft.tuners.hira.layer import Linear
from torch import nn
from torch.autograd.function import once_differentiable

from peftbench.methods import frozen
from peftbench.methods.four_bit import answer
from peftbench.methods.injection import ADAPTER

Source = Callable[[], torch.Tensor]
"""Gives W0 (d, k): by reference where it is dense, dequantized at each call where it is 4-bit."""


def effective_weight(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, alone: bool, dtype: torch.dtype
) -> torch.Tensor:
    """E, shape (d, k), in ``dtype``: ``W0 * (1 + s B A)``, or with ``alone`` the update ``W0 * s B A`` only."""
    product = b.to(dtype) @ a.to(dtype)
    if alone:
        return (weight * product).mul_(scale).to(dtype)
    return torch.addcmul(weight, weight, product, value=scale).to(dtype)


class HadamardLinear(torch.autograd.Function):
    """``x E' + b``; not differentiable twice. x: (..., k) sets the dtype that is computed in, A: (r, k), B: (d, r)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        bias: torch.Tensor | None,
        source: Source,
        scale: float,
        alone: bool,
    ) -> torch.Tensor:
        """Returns y: (..., d). ``bias`` (d,) is frozen: it gets no gradient."""
        ctx.save_for_backward(x, a, b)
        ctx.source, ctx.scale, ctx.alone = source, scale, alone
        with torch.autocast(x.device.type, enabled=False):
            weight = effective_weight(source(), a, b, scale, alone, x.dtype)
            return frozen.product(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, A and B, those that are needed."""
        x, a, b = ctx.saved_tensors
        needs_x, needs_a, needs_b = ctx.needs_input_grad[:3]
        weight, dx, da, db = ctx.source(), None, None, None
        with torch.autocast(x.device.type, enabled=False):
            if needs_x:
                dx = grad @ effective_weight(weight, a, b, ctx.scale, ctx.alone, x.dtype)
            if needs_a or needs_b:
                # Matrix products sum in float32 whatever they multiply. In float16 W0 * H could be below its range.
                wide = x.dtype if x.dtype == torch.bfloat16 else torch.promote_types(a.dtype, torch.float32)
                p = (grad.flatten(0, -2).T @ x.flatten(0, -2)).to(wide).mul_(weight)
                db = (p @ a.to(wide).T).to(b.dtype).mul_(ctx.scale) if needs_b else None
                da = (b.to(wide).T @ p).to(a.dtype).mul_(ctx.scale) if needs_a else None
        return dx, da, db, None, None, None, None


class Fused:
    """What replaces the forward pass of PEFT's HiRA layers; mixed in before one of them."""

    scale: float = 1.0
    """``s``; PEFT's own layer has none. `peftbench.methods.hira` folds it into B when saving."""

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """``s B A`` in the layout of the base weight: what PEFT's merge multiplies it by, plus one."""
        return super().get_delta_weight(adapter) * self.scale  # type: ignore[misc]  # PEFT's layer has it

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x: (..., k) -> (..., d)."""
        this: Any = self
        if this.disable_adapters or this.merged:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]  # PEFT's layer has it
        a, b, dropout = this.hira_A[ADAPTER], this.hira_B[ADAPTER], this.hira_dropout[ADAPTER]
        base = this.get_base_layer()
        dtype = frozen.compute_dtype(base, x)
        source = partial(frozen.weight, base, dtype)
        if not self.is_affine():
            # The base sees x, the update dropout(x): two branches, five products.
            update = HadamardLinear.apply(dropout(x).to(dtype), a, b, None, source, self.scale, True)
            y = this.base_layer(x)
            return y + update.to(y.dtype)
        y = HadamardLinear.apply(x.to(dtype), a, b, base.bias, source, self.scale, False)
        # A dense layer gives back the dtype it computes in, a 4-bit one outside autocast what it was given.
        return answer(y, x) if isinstance(self, FusedLinear4bit) else y

    def is_affine(self) -> bool:
        """Whether the layer multiplies every token by the same weight now: not with dropout of its own."""
        this: Any = self
        return not (this.training and isinstance(this.hira_dropout[ADAPTER], nn.Dropout))


class FusedLinear(Fused, Linear):
    """On a dense ``nn.Linear`` or GPT-2's ``Conv1D``."""


class FusedLinear4bit(Fused, Linear4bit):
    """On a 4-bit linear layer."""


FUSED: dict[type[nn.Module], type[nn.Module]] = {Linear: FusedLinear, Linear4bit: FusedLinear4bit}


def fuse(module: nn.Module, scale: float) -> None:
    """Turn one of PEFT's HiRA layers into its fused subclass, in place: parameters and hooks stay as they are."""
    module.__class__ = FUSED[type(module)]
    module.scale = scale  # type: ignore[assignment]  # it is a `Fused` now
