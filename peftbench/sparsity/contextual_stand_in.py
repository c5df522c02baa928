"""``fill=linear``: a feed-forward block's output with what its hidden channels are predicted to be, in one product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftbench.sparsity.contextual_linear import base_weight
from peftbench.sparsity.contextual_predictor import Moments


class StandIn:
    """What the hidden channels that are left out add to the output, each standing at its prediction from the input.

    Channel i stands at ``m_i + (x - mean x) P_i``. All of them together give ``W2 m + (x - mean x) P W2'``, of which
    the second layer has added ``W2 m``; what the channels J that are computed stood at is taken away from the rest.
    """

    def __init__(self, second: nn.Module, moments: Moments) -> None:
        assert moments.slope is not None
        assert moments.input_mean is not None
        self.second, self.input_mean = second, moments.input_mean
        self.rows = moments.slope.T.contiguous()
        """P', shape (d_ff, k): what is taken is contiguous."""
        self.whole = self._through(base_weight(second), self.rows)

    @torch.no_grad()
    def without(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (d, k) and bias (d,) of a linear layer that adds what all channels but these stand at."""
        with torch.autocast(index.device.type, enabled=False):
            chosen = base_weight(self.second).index_select(1, index)
            slope = self.whole - self._through(chosen, self.rows.index_select(0, index))
            return slope, -(slope @ self.input_mean.to(slope.dtype))

    @staticmethod
    def _through(weight: Tensor, rows: Tensor) -> Tensor:
        wide = torch.promote_types(weight.dtype, rows.dtype)
        return weight.to(wide) @ rows.to(wide)
