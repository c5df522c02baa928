"""The blocks that are computed sparsely: each chooses its channels when its input comes, and its layers follow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftbench.errors import Skip
from peftbench.models.layout import Layout
from peftbench.sparsity import contextual_predictor as predictor
from peftbench.sparsity.contextual_block import Block, Now
from peftbench.sparsity.contextual_linear import Choice, base_linear, base_weight, is_adapted, slice_layer
from peftbench.sparsity.contextual_stand_in import StandIn


class FeedForward(Block):
    """``W2 act(W1 x + b1) + b2`` over the chosen hidden channels."""

    kind = "ffn"

    def __init__(self, now: Now, number: int, layer: nn.Module, layout: Layout) -> None:
        super().__init__(now, number, layer, layout)
        self.first: Any = layer.get_submodule(layout.first)
        self.inner = layer.get_submodule(layout.second)
        self.activation: Any = layer.get_submodule(layout.activation)
        self.channels, self.size = base_weight(self.first).shape
        if self.activation(torch.zeros(1)).any():
            raise Skip(f"sparsity=contextual: the activation {self.activation} is not 0 at 0: write sparsity.ffn=0")
        # Where both have a trained branch, hidden channels that the first one's alone has made reach the second one's.
        self.choice = Choice(self.channels, narrow=not (is_adapted(self.first) and is_adapted(self.inner)))
        self._outputs: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        """Hidden states of the output tokens and where they are, until the second layer is done: where the frozen
        layers do not see to them themselves."""
        self._stand_in: StandIn | None = None
        """What channels that are left out add to the output, where that depends on the input."""
        self._done_twice = 0
        self._handles = [
            self.first.register_forward_pre_hook(self.enter, with_kwargs=True),
            self.inner.register_forward_pre_hook(self._half_way),
            self.inner.register_forward_hook(self._put_back),
        ]
        self._slicings = [slice_layer(self.first, self.choice, "rows"), slice_layer(self.inner, self.choice, "columns")]

    @property
    def each(self) -> int:
        """See `Block.each`."""
        return self.channels

    def skipped_at(self, ratio: float) -> int:
        """See `Block.skipped_at`."""
        left_out = 2 * self.size * (self.channels - predictor.channels_kept(self.channels, ratio))
        return left_out - (self.size * self.size if self._stand_in is not None else 0)

    def stand_at(self, moments: predictor.Moments) -> None:
        """See `Block.stand_at`; with a slope, at what it predicts from the block's input."""
        if moments.slope is None:
            super().stand_at(moments)
        else:
            self.moments, self._stand_in = moments, StandIn(base_linear(self.inner), moments)

    @property
    def skipped(self) -> int:
        """See `Block.skipped`; what stand-ins and output tokens cost beside it counts against it."""
        return super().skipped - self._done_twice

    def _weights(self) -> list[tuple[Tensor, Tensor | None]]:
        return [(base_weight(self.first), base_linear(self.first).bias)]

    def _enter(self, x: Tensor | None) -> None:
        self._outputs, self.choice.beside, self._done_twice = None, None, 0
        if x is None:
            self.choice.index = None
            return
        self.choice.index = self._choose(x)
        beside = None
        if self._stand_in is not None:
            beside = self.choice.beside = self._stand_in.beside(self.choice.index, x)
            self._done_twice = self.size * self.size * (x.numel() // self.size + len(self.choice.index))
        if self.now.outputs is not None:
            sequences = torch.arange(len(x), device=x.device)
            if beside is not None and not is_adapted(self.inner):
                beside.rows = sequences * x.shape[1] + self.now.outputs
            else:
                where = (sequences, self.now.outputs)
                self._outputs = (x[where], where)

    @torch.no_grad()
    def _choose(self, x: Tensor) -> Tensor:
        """Indices of the hidden channels that lose most if they are left out."""
        with torch.autocast(x.device.type, enabled=False):
            means = self.means(x)
            activations = self.activation(self.predicted(means)[0])
            moments = self.moments
            lost = (
                predictor.importance(activations)
                if moments is None
                else predictor.distance(activations, moments.stand_in(means), moments)
            )
        return lost.topk(self.kept, sorted=False).indices

    def _half_way(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """The forward pre-hook of the second layer."""
        if (beside := self.choice.beside) is not None and beside.read is not None:
            beside.dense, beside.read = self._dense(beside.read).to(beside.read.dtype), None

    def _put_back(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor | None:
        """The forward hook of the second layer: output tokens by all channels."""
        if self._outputs is None:
            return None
        (x, where), self._outputs = self._outputs, None
        return y.index_put_(where, self._dense(x).to(y.dtype))

    def _dense(self, x: Tensor) -> Tensor:
        """What all channels give for output tokens, x: (sequences, k)."""
        chosen, self.choice.index = self.choice.index, None
        skipped = [slicing.skipped for slicing in self._slicings]
        # Their forward functions, as calling the layers would run these hooks again.
        dense: Tensor = self.inner.forward(self.activation(self.first.forward(x)))
        self.choice.index = chosen
        for slicing, before in zip(self._slicings, skipped, strict=True):
            slicing.skipped = before
        self._done_twice += 2 * self.size * self.channels * len(x)
        return dense


class Attention(Block):
    """q and k on shared channels of each head, v and the output projection's input on others.

    A channel that is left out is 0 in q and in k, so it adds nothing to any score, whose scale stays that of the whole
    head. Where no trained branch could make it more than 0, heads are as narrow as what is chosen.
    """

    kind = "attention"

    def __init__(self, now: Now, number: int, layer: nn.Module, layout: Layout) -> None:
        super().__init__(now, number, layer, layout)
        self.core: Any = layer.get_submodule(layout.core)
        self.heads, self.width = getattr(self.core, layout.heads), getattr(self.core, layout.head_width)
        self.projections: list[Any] = [layer.get_submodule(name) for name in layout.projections]
        self.inner = layer.get_submodule(layout.out)
        self.channels = self.heads * self.width
        self.size = base_weight(self.projections[0]).shape[1]
        query, key = self.projections[0], self.projections[min(1, len(self.projections) - 1)]
        # Scores of two trained branches need all channels, and so does a trained branch on the output projection.
        self.narrow = not (is_adapted(query) and is_adapted(key)) and not is_adapted(self.inner)
        self._make_choices()
        around = layer.get_submodule(layout.attention)
        self._handles = [around.register_forward_pre_hook(self.enter, with_kwargs=True)]
        self._slicings = [
            slice_layer(projection, choice, "rows")
            for projection, choice in zip(self.projections, self._of_projections, strict=True)
        ]
        self._slicings.append(slice_layer(self.inner, self.values, "columns"))

    def _make_choices(self) -> None:
        """One for q and k, one for v and the output; where one layer is all three, one more for that layer."""
        self.scores, self.values = Choice(self.channels, self.narrow), Choice(self.channels, self.narrow)
        self.fused = Choice(3 * self.channels, self.narrow) if len(self.projections) == 1 else None
        self._of_projections = [self.scores, self.scores, self.values] if self.fused is None else [self.fused]

    @property
    def each(self) -> int:
        """See `Block.each`."""
        return self.width

    def skipped_at(self, ratio: float) -> int:
        """See `Block.skipped_at`."""
        return 4 * self.size * self.heads * (self.width - predictor.channels_kept(self.width, ratio))

    def _weights(self) -> list[tuple[Tensor, Tensor | None]]:
        found: list[tuple[Tensor, Tensor | None]] = []
        for layer in self.projections:
            weight, bias = base_weight(layer), base_linear(layer).bias
            parts = 3 if self.fused is not None else 1
            biases = [None] * parts if bias is None else bias.chunk(parts)
            found += zip(weight.chunk(parts), biases, strict=True)
        return found

    def _enter(self, x: Tensor | None) -> None:
        count = self.width if x is None else self.kept
        if x is None:
            self.scores.index = self.values.index = None
        else:
            chosen = self._choose(x, count)
            self.scores.index, self.values.index = chosen
        if self.fused is not None:
            self.fused.index = None if x is None else self._side_by_side(*chosen)
        if self.narrow:
            setattr(self.core, self.layout.head_width, count)
            if self.layout.total_width is not None:
                setattr(self.core, self.layout.total_width, self.heads * count)

    @torch.no_grad()
    def _choose(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return predictor.attention_channels(self.predicted(self.means(x)), self.heads, count, self.moments)

    def _side_by_side(self, scores: Tensor, values: Tensor) -> Tensor:
        return torch.cat([scores, scores + self.channels, values + 2 * self.channels])
