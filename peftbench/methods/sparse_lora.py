"""Sparse LoRA: LoRA whose factors are made sparse while they train (see `peftbench.sparsity`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from peftbench.methods.lora import Lora

if TYPE_CHECKING:
    from peftbench.config import RunConfig


class SparseLora(Lora):
    """LoRA that must be given a sparsity."""

    low_rank: ClassVar[bool] = True

    def conflict(self, run: RunConfig) -> str | None:
        """Without a sparsity this would be dense LoRA under a wrong name."""
        if not run.sparsity.active:
            return "sparse LoRA needs a sparsity: write sparsity=magnitude, topk, l1 or structured"
        return None
