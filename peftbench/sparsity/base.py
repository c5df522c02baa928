"""What a sparsity is: something that makes the factors of a low-rank adapter sparse while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from peftbench.component import Component
from peftbench.training.hooks import Hook
from peftbench.training.primitives import KEPT

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.methods.base import Attached


class Sparsity(Component):
    """``sparsity=none``: the null object, and the base class of all the others."""

    active: ClassVar[bool] = False
    """Whether the factors of the adapter are made sparse."""
    products: ClassVar[int] = KEPT
    """How many shapes of matrix products a process keeps the kernels of: more than a step has."""

    def conflict(self, run: RunConfig) -> str | None:
        """Why this sparsity cannot be combined with the rest of ``run``, or None. Called while composing: no torch."""
        return None

    def hook(self, attached: Attached) -> Hook:
        """The training hook that carries the sparsity out on ``attached.factors``."""
        return Hook()
