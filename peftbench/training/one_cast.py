"""Hidden states are cast once for all that reads them, where autocast would cast them for each, and each gradient back.

A norm answers in float32 under autocast on a GPU: its answer is cast for q, k and v together, and what is multiplied is
the same either way. On a CPU it answers in the dtype that it is given, so that a cast at the door of a layer keeps all
in it at half the bytes: what the residual adds up is rounded as the products that it adds are. That is done where a
norm comes after each addition, as in BERT, and not where sums run through the whole network (GPT-2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from peftbench.models import layout as layouts
from peftbench.models.mixin import mix_in, take_out


class OneCast:
    """Mixed in before the class of a layer or of its attention, after any other mixin (see `mixin.take_out`)."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """hidden_states: (items, length, d), and so ``attended`` where there are fewer queries than keys."""
        place = hidden_states.device.type
        if self.training and torch.is_autocast_enabled(place):  # type: ignore[attr-defined]  # a module's
            dtype = torch.get_autocast_dtype(place)
            hidden_states = hidden_states.to(dtype)
            if (attended := kwargs.get("attended")) is not None:
                kwargs["attended"] = attended.to(dtype)
        return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]  # a mixin


def install(model: nn.Module, device: torch.device) -> bool:
    """Cast once in every layer, in place, where the blocks are known and q, k and v are layers of their own.

    Returns whether all of a layer then computes in the dtype of autocast, on ``device``.
    """
    found = layouts.find(model)
    if found is None or len(found.layout.projections) == 1:
        return False
    whole = device.type == "cpu" and found.layout.norm == "after"
    for layer in found.layers:
        mix_in(layer if whole else layer.get_submodule(found.layout.core), OneCast)
    return whole


def uninstall(model: nn.Module) -> None:
    """Undo `install`, before anything that was mixed in earlier is taken out."""
    for module in model.modules():
        take_out(module, OneCast)
