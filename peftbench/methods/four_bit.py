"""Linear layers over bitsandbytes' 4-bit weights: ``y = x W' + b`` with W dequantized at each use and kept nowhere.

bitsandbytes' own layer differs from a dense one under autocast in ways that cost more than 4-bit weights save. It
answers in the dtype of its input, which after a norm is float32: attention and activation functions behind it then
compute in float32, and what autograd keeps of them is twice as large. Its backward pass dequantizes to the dtype that
the checkpoint was loaded in (float32) and rounds afterwards: two copies instead of one, of the same numbers.
"""

from __future__ import annotations

from typing import Any, cast

import bitsandbytes
import torch
from torch import nn

from peftbench.errors import UserError


class FourBitLinear(bitsandbytes.nn.Linear4bit):
    """W: (d, k) in 4 bits, multiplied in ``compute_dtype`` by bitsandbytes' kernels, forward and backward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., k) -> (..., d), under autocast in ``compute_dtype`` as a dense layer's, otherwise in x's dtype."""
        dtype, weight = self.compute_dtype or x.dtype, cast(Any, self.weight)
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            y = bitsandbytes.matmul_4bit(x.to(dtype), weight, bias=bias, quant_state=weight.quant_state)
        return answer(y, x)


def answer(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What a 4-bit layer gives back that was given ``x`` and has computed ``y``."""
    return y if torch.is_autocast_enabled(x.device.type) else y.to(x.dtype)


def take_over(model: nn.Module) -> None:
    """Turn bitsandbytes' layers into ours, in place, and let their backward pass dequantize to what they compute in.

    Nor do ours repack their weights in eval mode, as bitsandbytes' do on CPUs with AVX512-BF16, rounding the block
    constants to bf16 for good: after a validation in mid-training the base would be another one than before it.

    Raises:
        UserError: bitsandbytes has left the whole network dense: its linear layers are of a kind of its own (Falcon).
    """
    if not any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules()):
        raise UserError(
            f"bitsandbytes quantizes no layer of {type(model).__name__}: choose another model, or a method whose base "
            "is dense"
        )
    for module in model.modules():
        if type(module) is bitsandbytes.nn.Linear4bit:
            module.__class__ = FourBitLinear
            if module.compute_dtype is not None:
                cast(Any, module.weight).quant_state.dtype = module.compute_dtype
