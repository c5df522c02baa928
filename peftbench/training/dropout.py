"""Dropout that costs little on the CPU: the same distribution as torch's, drawn four decisions to a 64-bit number.

torch draws a Mersenne Twister number for every entry, one after the other on one core: at MiniLM's shapes a fifth of a
training step. Here a shift register as long as a cache makes all of its next numbers by one exclusive or, with torch's
own vectorised operation and on all cores; 15 of each 16 bits decide one entry, so that p is met to 2^-15. On other
devices torch's own dropout stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

RESOLUTION = 2**15
MOST = 0x7C00
"""Bits of the infinite float16, beyond which there are no numbers: p = 0.97."""
DECIDING = 0x7FFF7FFF7FFF7FFF
"""Which bits of a number decide: all but the sign of each 16."""
LENGTH, TAP = 132049, 7000
"""x^LENGTH + x^TAP + 1 is primitive over GF(2) (Heringa, Blöte and Compagner, 1992); 1 MB of numbers."""


class Bits:
    """The generator that all dropout of this process draws from, in place of torch's own one.

    A generalised feedback shift register (Lewis and Payne, 1973), ``x[n] = x[n - LENGTH] ^ x[n - LENGTH + TAP]``, whose
    first numbers SFC64 gives. Its period is 2^LENGTH - 1 and any two decisions are independent, exactly: each bit of a
    number is a maximal sequence of its own. Of three decisions at these distances, half a million entries apart, that
    is not so. `tests/training/test_dropout.py` computes that the polynomial is primitive.
    """

    now: torch.Tensor
    """int64 (LENGTH,): the numbers drawn last; those before `used` are given out. The bits that do not decide are 0."""
    spare: torch.Tensor
    used: int

    @classmethod
    def seed(cls, seed: int) -> None:
        """Start the sequence that belongs to ``seed``."""
        first = np.random.SFC64(seed).random_raw(LENGTH) & DECIDING
        cls.now = torch.from_numpy(first.view(np.int64))
        cls.spare = torch.empty_like(cls.now)
        cls.used = LENGTH

    @classmethod
    def step(cls) -> None:
        """The next `LENGTH` numbers."""
        last, following = cls.now, cls.spare
        torch.bitwise_xor(last[:-TAP], last[TAP:], out=following[:-TAP])
        torch.bitwise_xor(last[-TAP:], following[:TAP], out=following[-TAP:])
        cls.now, cls.spare, cls.used = following, last, 0

    @classmethod
    def below(cls, shape: torch.Size, dropped: int) -> torch.Tensor:
        """int16 of that shape: uniform in [0, 2^15) less ``dropped``, so negative with probability dropped / 2^15."""
        count = shape.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64)
        rest = words
        while len(rest):
            if cls.used == LENGTH:
                cls.step()
            given = cls.now[cls.used : cls.used + len(rest)]
            torch.sub(given.view(torch.int16), dropped, out=rest[: len(given)].view(torch.int16))
            cls.used += len(given)
            rest = rest[len(given) :]
        return words.view(torch.int16)[:count].view(shape)


Bits.seed(0)


def _kept(x: torch.Tensor, drawn: torch.Tensor, dropped: int) -> torch.Tensor:
    """``x / (1 - p)`` where ``drawn``, uniform in [0, 2^15), is ``dropped`` or more, else 0."""
    if x.element_size() == drawn.element_size():
        # Positive 16-bit floats are in the order of their bits. NaNs have the largest, and are never found below.
        numbers, last = drawn.view(x.dtype), _float(dropped - 1, x.dtype)
    else:
        numbers, last = drawn.to(x.dtype), float(dropped - 1)
    kept: torch.Tensor = torch.ops.aten.threshold_backward(x, numbers, last)
    return kept.mul_(RESOLUTION / (RESOLUTION - dropped))


def _float(bits: int, dtype: torch.dtype) -> float:
    """The 16-bit float with these bits."""
    if dtype == torch.bfloat16:  # the upper half of a float32
        return float(np.uint32(bits << 16).view(np.float32))
    return float(np.uint16(bits).view(np.float16))


class Dropout(torch.autograd.Function):
    """``y = x * keep / (1 - p)`` with ``keep`` Bernoulli(1 - p), independent for every entry."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dropped: int) -> torch.Tensor:
        """x: any shape, any floating dtype; dropped: p in units of 1 / `RESOLUTION`, from 1 to `MOST`."""
        drawn = Bits.below(x.shape, 0)
        ctx.dropped = dropped
        ctx.save_for_backward(drawn)
        return _kept(x, drawn, dropped)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """dx = dy * keep / (1 - p)."""
        (drawn,) = ctx.saved_tensors
        return _kept(grad, drawn, ctx.dropped), None


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """`Dropout` of ``x``, or torch's own for a p that needs no decision, or is too near to 1 to be compared with."""
    dropped = round(p * RESOLUTION)
    return Dropout.apply(x, dropped) if 0 < dropped <= MOST else nn.functional.dropout(x, p)


class CpuDropout(nn.Dropout):
    """What takes the place of ``nn.Dropout``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """See `dropout`; the identity in eval mode."""
        return dropout(input, self.p) if self.training and self.p > 0 else input


def install(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` of a network that trains on the CPU.

    Not for a network with gradient checkpointing: what it computes twice must be dropped alike, and it saves the state
    of torch's generator only.
    """
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CpuDropout
