"""``sparsity=magnitude``: the entries of A and B below a magnitude threshold become zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftbench.sparsity.pruning import Pruning

if TYPE_CHECKING:
    from peftbench.methods.base import Attached
    from peftbench.training.hooks import Hook


class Magnitude(Pruning):
    """Unstructured pruning by ``|w|`` with one threshold per tensor, or one for all factors together.

    The threshold is the magnitude at the target's quantile. Among entries exactly at it, earlier ones (row-major, and
    in the order of the factors) are pruned first until the target is met, also where low precision makes many equal.
    So ``scope: tensor`` prunes what ``topk`` prunes; ``scope: global`` weighs tensors against each other.
    """

    scope: Literal["tensor", "global"]

    def hook(self, attached: Attached) -> Hook:
        """A persistent mask over A and B."""
        from peftbench.sparsity.masking import MaskHook

        return MaskHook(self, attached, self.scope)
