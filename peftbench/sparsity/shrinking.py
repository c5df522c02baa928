"""Structured pruning: rank components are cut out of A, B and the optimizer's state, which all get smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peftbench.sparsity.moments import take_moments
from peftbench.sparsity.pruning import PruningHook
from peftbench.sparsity.schedule import kept

if TYPE_CHECKING:
    from peftbench.methods.base import Factor


class ShrinkHook(PruningHook):
    """Leaves ``round((1 - s_t) r)``, and at least 1, of each factor's original r components, those of highest score."""

    def start(self, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        """Remember the ranks that the ratio refers to."""
        super().start(optimizer, total_steps)
        self.ranks = [factor.a.shape[0] for factor in self.factors]

    @torch.no_grad()
    def prune(self, ratio: float) -> None:
        """Cut every factor that has more components than ``ratio`` allows."""
        for factor, rank in zip(self.factors, self.ranks, strict=True):
            count = max(1, kept(rank, ratio))
            if count < factor.a.shape[0]:
                self._keep(factor, strongest(factor.a, factor.b, count))

    def _keep(self, factor: Factor, components: Tensor) -> None:
        a, b = factor.a, factor.b
        smaller_a, smaller_b = _take(a, components, 0), _take(b, components, 1)
        factor.replace(smaller_a, smaller_b)
        # The factor may hold its own new parameters rather than ours: what it holds now is what is trained.
        take_moments(self.optimizer, a, factor.a, components, 0)
        take_moments(self.optimizer, b, factor.b, components, 1)


def strongest(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Ascending int64 indices, shape (count,), of the components with the largest ``‖A_i‖₂ ‖B_:i‖₂``.

    Of equal ones the first stay.

    Args:
        a: A, shape (r, k).
        b: B, shape (d, r).
        count: how many of the r to keep.
    """
    wide = torch.promote_types(a.dtype, torch.float32)
    norms_a = torch.linalg.vector_norm(a, dim=1, dtype=wide)
    norms_b = torch.linalg.vector_norm(b, dim=0, dtype=wide)
    return torch.argsort(norms_a * norms_b, descending=True, stable=True)[:count].sort().values


def _take(parameter: nn.Parameter, components: Tensor, dim: int) -> nn.Parameter:
    smaller = parameter.detach().index_select(dim, components)
    return nn.Parameter(smaller, requires_grad=parameter.requires_grad)
