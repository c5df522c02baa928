"""``sparsity=structured``: whole rank components go, and A, B and the optimizer's state really get smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.sparsity.pruning import Pruning
from peftbench.sparsity.schedule import kept

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.methods.base import Attached
    from peftbench.training.hooks import Hook


class Structured(Pruning):
    """Keeps ``round((1 - ratio) r)`` of the r rank components of each factor: row i of A with column i of B.

    Component i is scored by ``‖A_i‖₂ ‖B_:i‖₂``, the Frobenius norm of what it adds to ``B A``; the scaling ``s`` of the
    method does not change. Ranks are small, so the ratio is met only to the nearest whole component.
    """

    def conflict(self, run: RunConfig) -> str | None:
        """A ratio that would remove no component, or all of them, of some layer."""
        ranks = [] if run.rank is None else [run.rank.value, *run.rank.pattern.values()]
        return next((reason for rank in ranks if (reason := self._misfit(rank))), None)

    def _misfit(self, rank: int) -> str | None:
        if 0 < kept(rank, self.ratio) < rank:
            return None
        said = f"sparsity.ratio={self.ratio:g}"
        if rank == 1:
            return f"rank 1 has no component to spare for sparsity={self.name}: write a rank of at least 2"
        if kept(rank, self.ratio) == rank:
            return f"rank {rank} has no component to spare at {said}: write a larger ratio or rank"
        return f"{said} leaves no component of rank {rank}: write a smaller ratio or a larger rank"

    def hook(self, attached: Attached) -> Hook:
        """Shrinks A and B through `Factor.replace`."""
        from peftbench.sparsity.shrinking import ShrinkHook

        return ShrinkHook(self, attached)
