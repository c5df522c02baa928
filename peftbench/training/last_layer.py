"""The last layer of an encoder whose classifier reads the first token only: nothing else of it is computed.

The other tokens are needed as keys and values there, and no further: their queries, the output projection, the
feed-forward block and the norms have no way to the loss. Leaving them out changes no number, forward or backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from peftbench.models import layout as layouts
from peftbench.models.mixin import mix_in, take_out
from peftbench.training import attention

ATTENTIONS = (attention.NAME, attention.PADDED, "sdpa")
"""Implementations that take fewer queries than keys."""


class FirstTokenLayer:
    """Mixed in before a layer's class: hidden states (items, length, d) in, the first token's (items, 1, d) out."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Everything but keys and values is the layer's own computation, for sequences of one token."""
        first = hidden_states[:, :1].contiguous()  # so that products take it as one matrix
        return super().forward(first, *args, attended=hidden_states, **kwargs)  # type: ignore[misc]  # a mixin


class FirstTokenAttention:
    """Mixed in before the class that computes attention: its queries are fewer than its keys and values."""

    projections: tuple[str, ...]
    """Names of q, k and v in this module."""
    out: str | None
    """Name of the output projection, where this module applies it."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        attended: torch.Tensor,
        past_key_values: None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states: (items, 1, d), whose queries these are; attended: (items, length, d), of keys and values."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        this: Any = self
        inputs = (hidden_states, attended, attended)
        query, key, value = (
            getattr(this, name)(x).view(*x.shape[:2], -1, this.attention_head_size).transpose(1, 2)
            for name, x in zip(this.projections, inputs, strict=True)
        )
        found, weights = ALL_ATTENTION_FUNCTIONS[this.config._attn_implementation](
            this,
            query,
            key,
            value,
            None if attention_mask is None else attention_mask[:, :, :1],
            dropout=this.dropout.p if this.training else 0.0,
            scaling=this.scaling,
            **kwargs,
        )
        found = found.reshape(*hidden_states.shape[:2], -1)
        return (found if this.out is None else getattr(this, this.out)(found)), weights


def install(model: nn.Module) -> bool:
    """Let the last layer compute what is read, in place; False where that is everything, or is not known."""
    found = layouts.find(model)
    if found is None or not layouts.is_classifier(model) or found.layout.read != "first":
        return False
    layout, layer = found.layout, found.layers[-1]
    core: Any = layer.get_submodule(layout.core)
    if core.config._attn_implementation not in ATTENTIONS or getattr(core.config, "is_decoder", False):
        return False
    within = layout.core + "."
    core.projections = tuple(name.removeprefix(within) for name in layout.projections)
    core.out = layout.out.removeprefix(within) if layout.out.startswith(within) else None
    mix_in(core, FirstTokenAttention)
    mix_in(layer, FirstTokenLayer)
    return True


def uninstall(model: nn.Module) -> None:
    """Undo `install`: the network is again what transformers made it."""
    for module in model.modules():
        take_out(module, FirstTokenAttention)
        take_out(module, FirstTokenLayer)
