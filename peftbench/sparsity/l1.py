"""``sparsity=l1``: an L1 penalty drives entries towards zero, a threshold makes the zeros exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import field_validator

from peftbench.sparsity.pruning import Pruning

if TYPE_CHECKING:
    from peftbench.methods.base import Attached
    from peftbench.training.hooks import Hook


class L1(Pruning):
    """``loss + strength * sum(|A| + |B|)`` until the mask is fixed; thresholds per tensor on the way.

    The penalty shapes the weights, ``ratio`` says how many zeros there are: at each update of the schedule the entries
    of smallest magnitude are set to exactly zero and stay there (the proximal map of the cardinality constraint, that
    is a hard threshold; soft-thresholding at the quantile that meets the ratio would shrink every survivor by as much).
    After the last update the penalty is off, so that the survivors recover unbiased.
    """

    strength: float
    """λ, per entry: the penalty is a sum, not a mean."""

    @field_validator("strength")
    @classmethod
    def _strength_in_range(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("must be above 0: write sparsity=magnitude to prune without a penalty")
        return value

    def hook(self, attached: Attached) -> Hook:
        """The penalty, and a persistent mask over A and B."""
        from peftbench.sparsity.masking import L1Hook

        return L1Hook(self, attached)
