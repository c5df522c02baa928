"""Unstructured pruning: masks over A and B that hold through gradients, optimizer moments and weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from peftbench.sparsity.moments import zero_moments
from peftbench.sparsity.pruning import PruningHook
from peftbench.sparsity.schedule import kept

if TYPE_CHECKING:
    from peftbench.methods.base import Attached
    from peftbench.sparsity.l1 import L1
    from peftbench.sparsity.pruning import Pruning

log = logging.getLogger(__name__)


class MaskHook(PruningHook):
    """Keeps pruned entries of A and B at exactly zero; masks only grow, so what is pruned stays pruned."""

    def __init__(self, sparsity: Pruning, attached: Attached, scope: Literal["tensor", "global"]) -> None:
        super().__init__(sparsity, attached)
        self.scope = scope
        self.parameters: list[nn.Parameter] = []
        self.pruned: list[Tensor] = []
        """One bool mask per parameter and of its shape, True where the entry is gone; empty before the first prune."""

    def start(self, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        """Collect every A and B once, also where layers share one."""
        super().start(optimizer, total_steps)
        self.parameters = list(dict.fromkeys(p for factor in self.factors for p in (factor.a, factor.b)))
        self.pruned = []

    def before_step(self, step: int) -> None:
        """Mask the gradients, so that pruned entries do not count when the gradient norm is clipped."""
        for parameter, pruned in zip(self.parameters, self.pruned, strict=False):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(pruned, 0)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Grow the masks if it is time to, and apply them to weights and moments."""
        super().after_step(step)
        for parameter, pruned in zip(self.parameters, self.pruned, strict=False):
            # Every step: bitsandbytes' 8-bit moments, for one, do not stay at zero by themselves.
            parameter.masked_fill_(pruned, 0)
            zero_moments(self.optimizer, parameter, pruned)

    @torch.no_grad()
    def prune(self, ratio: float) -> None:
        """Extend the masks to ``ratio`` zeros, of each tensor or of all of them together."""
        scores = [parameter.abs() for parameter in self.parameters]
        # Below any magnitude: what is pruned already is counted first, ahead of survivors that happen to be zero.
        for score, gone in zip(scores, self.pruned, strict=False):
            score.masked_fill_(gone, -1)
        groups = [scores] if self.scope == "global" else [[score] for score in scores]
        self.pruned = [mask for group in groups for mask in smallest(group, ratio)]
        if ratio == self.plan.ratio:
            self._warn_of_empty()

    def _warn_of_empty(self) -> None:
        # With a global threshold a whole B can go, and then its layer learns nothing more.
        if empty := sum(bool(mask.all()) for mask in self.pruned):
            log.warning("%d of %d factor matrices have no entry left at this sparsity", empty, len(self.pruned))


class L1Hook(MaskHook):
    """A `MaskHook` with the penalty ``strength * sum(|A| + |B|)`` until its masks are final."""

    def __init__(self, sparsity: L1, attached: Attached) -> None:
        super().__init__(sparsity, attached, "tensor")
        self.strength = sparsity.strength
        self.shaping = True

    def start(self, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        """Switch the penalty on."""
        super().start(optimizer, total_steps)
        self.shaping = True

    def penalty(self) -> Tensor | None:
        """A scalar of at least float32; None once the masks are fixed."""
        if not self.shaping:
            return None
        norms = [torch.linalg.vector_norm(p, ord=1, dtype=_wide(p.dtype)) for p in self.parameters]
        return self.strength * torch.stack(norms).sum()

    def after_step(self, step: int) -> None:
        """Threshold, and end the penalty with the last threshold."""
        super().after_step(step)
        self.shaping = not self.selectable(step)


def smallest(scores: list[Tensor], ratio: float) -> list[Tensor]:
    """Masks (bool, shapes of ``scores``) of the entries that are *not* kept: the smallest over all tensors together.

    Of equal scores those that come first go first, on every device. NaN counts as largest.
    """
    flat = torch.cat([score.reshape(-1) for score in scores])
    gone = flat.numel() - kept(flat.numel(), ratio)
    mask = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    mask[torch.argsort(flat, stable=True)[:gone]] = True
    sizes = [score.numel() for score in scores]
    return [part.view_as(score) for part, score in zip(mask.split(sizes), scores, strict=True)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
