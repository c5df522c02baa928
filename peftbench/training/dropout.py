"""Dropout that costs little on the CPU: the same distribution as torch's, drawn four decisions to a 64-bit number.

torch draws a Mersenne Twister number for every entry, one after the other on one core: at MiniLM's shapes a fifth of a
training step. Here as many xorshift64 generators as fit a cache go on side by side, with torch's own vectorised
operations and on all cores; 15 of each 16 bits decide one entry, so that p is met to 2^-15, and what is dropped is
cleared bit by bit. On other devices torch's own dropout stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

RESOLUTION = 2**15
DECIDING = 0x7FFF7FFF7FFF7FFF
"""Which bits of a number decide: all but the sign of each 16."""
SHIFTS = (21, 41, 23)
LANES = 2**17
"""Generators: 1 MB of them, and as much for what they shift."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of a floating dtype."""


class Bits:
    """The generators that all dropout of this process draws from, in place of torch's own one.

    Each lane is Marsaglia's xorshift64 from a start of its own that SFC64 gives it. With these shifts the period is
    2^64 - 1 and any two decisions of a lane that are less than 64 numbers apart are independent, exactly: the generator
    is linear over GF(2), where `tests/training/test_dropout.py` computes both. (Not so with the usual 13, 7, 17, whose
    lowest bits depend on few.)
    """

    state: torch.Tensor
    """int64 (LANES,): the numbers drawn last; those before `used` are given out."""
    spare: torch.Tensor
    used: int

    @classmethod
    def seed(cls, seed: int) -> None:
        """Start the sequence that belongs to ``seed``."""
        cls.state = torch.from_numpy(np.random.SFC64(seed).random_raw(LANES).view(np.int64))
        cls.spare = torch.empty_like(cls.state)
        cls.used = LANES

    @classmethod
    def step(cls) -> None:
        """The next number of every lane."""
        state, spare = cls.state, cls.spare
        first, right, last = SHIFTS
        state ^= torch.bitwise_left_shift(state, first, out=spare)
        # torch shifts the sign in, the generator zeros.
        state ^= torch.bitwise_right_shift(state, right, out=spare).bitwise_and_(2 ** (64 - right) - 1)
        state ^= torch.bitwise_left_shift(state, last, out=spare)
        cls.used = 0

    @classmethod
    def keep(cls, shape: torch.Size, dropped: int) -> torch.Tensor:
        """int16 of that shape: 0 (drop) with probability ``dropped / RESOLUTION``, else -1, all bits set."""
        drawn = cls.below(shape, dropped)
        drawn >>= 15
        return drawn.bitwise_not_()

    @classmethod
    def below(cls, shape: torch.Size, dropped: int) -> torch.Tensor:
        """int16 of that shape: negative (drop) with probability ``dropped / RESOLUTION``."""
        count = shape.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64)
        rest = words
        while len(rest):
            if cls.used == LANES:
                cls.step()
            given = cls.state[cls.used : cls.used + len(rest)]
            torch.bitwise_and(given, DECIDING, out=rest[: len(given)])
            cls.used += len(given)
            rest = rest[len(given) :]
        # Uniform in [0, 2^15), less `dropped`.
        drawn = words.view(torch.int16)[:count].view(shape)
        drawn -= dropped
        return drawn


Bits.seed(0)


def _kept(x: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
    integer = INTEGERS[x.element_size()]
    return (x.contiguous().view(integer) & keep.to(integer)).view(x.dtype).mul_(scale)


class Dropout(torch.autograd.Function):
    """``y = x * keep / (1 - p)`` with ``keep`` Bernoulli(1 - p), independent for every entry."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, p: float) -> torch.Tensor:
        """x: any shape, any floating dtype; 0 < p < 1."""
        dropped = round(p * RESOLUTION)
        ctx.scale = RESOLUTION / (RESOLUTION - dropped)
        keep = Bits.keep(x.shape, dropped)
        ctx.save_for_backward(keep)
        return _kept(x, keep, ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """dx = dy * keep / (1 - p)."""
        (keep,) = ctx.saved_tensors
        return _kept(grad, keep, ctx.scale), None


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """`Dropout` of ``x``; for a p that needs no decision, ``x`` or zeros."""
    if 0 < round(p * RESOLUTION) < RESOLUTION:
        return Dropout.apply(x, p)
    return nn.functional.dropout(x, p)


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
