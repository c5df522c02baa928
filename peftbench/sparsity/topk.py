"""``sparsity=topk``: exactly k entries of every tensor stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.sparsity.pruning import Pruning

if TYPE_CHECKING:
    from peftbench.methods.base import Attached
    from peftbench.training.hooks import Hook


class TopK(Pruning):
    """Keeps the ``k = round((1 - ratio) n)`` largest ``|w|`` of the n entries of each A and each B.

    Of equal entries the later ones (row-major) stay, so a run can be repeated exactly.
    """

    def hook(self, attached: Attached) -> Hook:
        """A persistent mask over A and B."""
        from peftbench.sparsity.masking import MaskHook

        return MaskHook(self, attached, "tensor")
