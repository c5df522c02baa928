"""Counts operations over all tokens: what tests of layers share that claim to compute products only."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Ops(TorchDispatchMode):
    """Counts what is computed over all tokens, by the name of the operation."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.counts = tokens, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        aliases = isinstance(found, torch.Tensor) and any(
            isinstance(arg, torch.Tensor) and arg.data_ptr() == found.data_ptr() for arg in args
        )
        name = func.overloadpacket.__name__
        wide = isinstance(found, torch.Tensor) and found.dim() > 1 and found.shape[:-1].numel() == self.tokens
        if wide and (not aliases or name == "addmm"):
            self.counts[name] += 1
        return found
