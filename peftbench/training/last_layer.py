"""The last layer of an encoder whose classifier reads the first token only: nothing else of it is computed.

The other tokens are attended to there, and no more: their queries, the output projection, the feed-forward block and
the norms have no way to the loss. Nor are keys and values needed of every token, where one query asks: with W and b of
one head, q the query, x the tokens and p what attention gives each of them,

    q . (W_k x + b_k) = (W_k' q) . x + q . b_k,   sum p (W_v x + b_v) = W_v (sum p x) + b_v sum p,

of which softmax does not see q . b_k. So a frozen layer of keys multiplies one vector a sequence, the layer of values
one a head. All of this changes no number, forward or backward, but for rounding.

A tuner may bring the other tokens' queries back into the loss, as Lily's does, which weighs its experts by their mean
over all tokens. So the network itself is asked before its last layer is changed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from peftbench.measuring.mode import mode
from peftbench.methods import frozen
from peftbench.models import layout as layouts
from peftbench.models.mixin import mix_in, take_out
from peftbench.training import attention

ATTENTIONS = (attention.NAME, attention.PADDED, "sdpa")
"""Implementations whose masks are known here."""


class FirstTokenLayer:
    """Mixed in before a layer's class: hidden states (items, length, d) in, the first token's (items, 1, d) out."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Everything but keys and values is the layer's own computation, for sequences of one token."""
        first = hidden_states[:, :1].contiguous()  # so that products take it as one matrix
        return super().forward(first, *args, attended=hidden_states, **kwargs)  # type: ignore[misc]  # a mixin


class FirstTokenAttention:
    """Mixed in before the class that computes attention: one query a sequence asks all of its tokens."""

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
        this: Any = self
        query = this.by_heads(0, hidden_states)[:, 0] * this.scaling
        scores = this._scores(query, attended)
        if attention_mask is not None:
            mask = attention_mask[:, :, 0]
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        found = this._found(this.dropout(scores.softmax(-1)), attended).reshape(*hidden_states.shape[:2], -1)
        return (found if this.out is None else getattr(this, this.out)(found)), None

    def by_heads(self, which: int, x: torch.Tensor) -> torch.Tensor:
        """x: (items, length, d) -> its queries (0), keys (1) or values (2): (items, length, heads, width)."""
        this: Any = self
        return getattr(this, self.projections[which])(x).view(*x.shape[:2], -1, this.attention_head_size)

    def reads_every_token(self) -> list[str]:
        """Names of those of k and v that multiply every token: the others are carried to the one query."""
        this: Any = self
        _, key, value = self.projections
        return [name for name, carried in ((key, _is_frozen), (value, _is_affine)) if not carried(getattr(this, name))]

    def _scores(self, query: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """query: (items, heads, width) -> what it finds at each token, without the constant: (items, heads, length)."""
        this: Any = self
        key = getattr(this, self.projections[1])
        if not _is_frozen(key):
            return (query.unsqueeze(2) @ this.by_heads(1, attended).permute(0, 2, 3, 1)).squeeze(2)
        weight = frozen.weight(key, query.dtype).view(*query.shape[1:], -1)
        return torch.einsum("ihw,hwd->ihd", query, weight) @ attended.transpose(1, 2)

    def _found(self, weights: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """weights: (items, heads, length), after dropout -> values of each head, summed: (items, heads, width)."""
        this: Any = self
        value = getattr(this, self.projections[2])
        if not _is_affine(value):
            return (weights.unsqueeze(2) @ this.by_heads(2, attended).transpose(1, 2)).squeeze(2)
        # Every head's sum goes through the whole layer, so that it may be any; its own channels are read.
        found = this.by_heads(2, weights @ attended).diagonal(dim1=1, dim2=2).transpose(1, 2)
        bias = getattr(value, "base_layer", value).bias
        if bias is None or not (this.training and this.dropout.p):
            return found
        missing = (weights.sum(-1, keepdim=True) - 1) * bias.view(found.shape[1:])
        return found + missing.to(found.dtype)


def _is_linear(layer: nn.Module) -> bool:
    """Whether it is a linear layer, dense or 4-bit, with no adapter around it: some of PEFT's are linear layers too."""
    return isinstance(layer, nn.Linear) and not hasattr(layer, "base_layer")


def _is_frozen(layer: nn.Module) -> bool:
    """Whether it is a linear layer of which nothing is trained."""
    return _is_linear(layer) and not any(p.requires_grad for p in layer.parameters())


def _is_affine(layer: nn.Module) -> bool:
    """Whether it computes ``W x + b`` with the same W and b for every token: adapters of our own say so."""
    own = getattr(layer, "is_affine", None)
    return _is_linear(layer) or (own is not None and own())


def install(model: nn.Module) -> bool:
    """Let the last layer compute what is read, in place; False where that is everything, or is not known.

    The caller has set the autocast that ``model`` runs in.
    """
    found = layouts.find(model)
    if found is None or not layouts.is_classifier(model) or found.layout.read != "first":
        return False
    layout, layer = found.layout, found.layers[-1]
    core: Any = layer.get_submodule(layout.core)
    if core.config._attn_implementation not in ATTENTIONS or getattr(core.config, "is_decoder", False):
        return False
    within = layout.core + "."
    if not _first_is_alone(model, *(layer.get_submodule(name) for name in (layout.projections[0], layout.out))):
        return False
    core.projections = tuple(name.removeprefix(within) for name in layout.projections)
    core.out = layout.out.removeprefix(within) if layout.out.startswith(within) else None
    mix_in(core, FirstTokenAttention)
    mix_in(layer, FirstTokenLayer)
    return True


def _first_is_alone(model: nn.Module, query: nn.Module, out: nn.Module) -> bool:
    """Whether all that the last layer's first token needs are numbers where both modules are given NaN for the others.

    NaN spreads to all that is computed of it, also through a tuner that begins as zero: 0 NaN = NaN. Not through every
    kernel of attention, so each side of that is looked at. What a layer remembers of its inputs, as batch norms do in
    training, is put back.
    """
    ids = torch.zeros(2, 3, dtype=torch.int64, device=next(model.parameters()).device)
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    read: list[torch.Tensor] = []
    hooks = [module.register_forward_pre_hook(_spoil_others) for module in (query, out)]
    hooks.append(query.register_forward_hook(lambda _module, _args, answer: read.append(answer[:, 0])))
    try:
        with torch.no_grad():
            for training in (False, True):
                with mode(model, training=training):
                    read.append(model(input_ids=ids).logits)
            for buffer, before in kept:
                if not torch.equal(buffer, before):  # some cannot be written to, and are not
                    buffer.copy_(before)
    finally:
        for hook in hooks:
            hook.remove()
    return not any(found.isnan().any() for found in read)


def _spoil_others(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    spoilt = args[0].clone()
    spoilt[:, 1:] = torch.nan
    return spoilt, *args[1:]


def uninstall(model: nn.Module) -> None:
    """Undo `install`: the network is again what transformers made it."""
    for module in model.modules():
        take_out(module, FirstTokenAttention)
        take_out(module, FirstTokenLayer)
