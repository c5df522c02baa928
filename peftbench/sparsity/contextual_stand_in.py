"""``fill=linear``: a feed-forward block's output with what its hidden channels are predicted to be, in one product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from peftbench.methods import frozen
from peftbench.sparsity.contextual_linear import Beside, base_weight
from peftbench.sparsity.contextual_predictor import MULTIPLE, Moments


class StandIn:
    """What the hidden channels that are left out add to the output, each standing at its prediction from the input.

    Channel i stands at ``m_i + (x - mean x) P_i = n_i + x P_i``. All of them together give ``W2 n + x P W2'``; what the
    channels J that are computed stood at is taken away, slope and shift in one product.
    """

    def __init__(self, second: Any, moments: Moments) -> None:
        """second: the frozen linear layer that follows the same choice as the block, by its columns."""
        assert moments.slope is not None
        assert moments.input_mean is not None
        self.second, weight = second, base_weight(second)
        wide = torch.promote_types(weight.dtype, moments.slope.dtype)
        slope = moments.slope.to(wide)
        shift = moments.mean.to(wide) - moments.input_mean.to(wide) @ slope
        # n is one more column of P', and zeros make their number what matrix units work on.
        rows = functional.pad(torch.cat([slope.T, shift[:, None]], dim=1), (0, MULTIPLE - 1))
        self._exact = (weight.to(wide) @ rows, rows)
        self._held: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def beside(self, index: Tensor, x: Tensor) -> Beside:
        """What all channels but these add, and the second layer's bias, for the block's input x: (..., k)."""
        dtype, width = frozen.compute_dtype(self.second, x), x.shape[-1]
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            whole, rows = self._of_all(dtype)
            taken = self.second.taken(index, dtype)
            found = torch.addmm(whole, taken.T, rows.index_select(0, index), alpha=-1)
        slope, shift, bias = found[:, :width].contiguous(), found[:, width].contiguous(), self.second.own_bias(dtype)
        return Beside(slope, shift if bias is None else shift + bias, taken)

    def _of_all(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``W2 [P', n]``, shape (d, k + `MULTIPLE`), and ``[P', n]``, shape (d_ff, the same), in that dtype."""
        if dtype not in self._held:
            whole, rows = self._exact
            self._held[dtype] = (whole.to(dtype), rows.to(dtype))
        return self._held[dtype]
