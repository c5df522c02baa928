"""From one target to a ratio for every block: those go furthest whose output the network misses least.

The sensitivity of a block at a ratio is ``||H - H'||^2 / ||H||^2`` over a few training batches: H is the last hidden
states of the dense network, H' those with this block alone sparse, at output tokens where these are told from others
(the head of a classifier sees no other) and else at all real ones. Dropout is off, so nothing here is random. The
choice minimises the sum of sensitivities among those that leave out enough (a multiple-choice knapsack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftbench.errors import UserError
from peftbench.measuring.mode import mode
from peftbench.sparsity.contextual_block import Block, Now
from peftbench.sparsity.contextual_blocks import FeedForward
from peftbench.sparsity.contextual_linear import base_weight
from peftbench.sparsity.contextual_predictor import Moments

if TYPE_CHECKING:
    from peftbench.tasks.base import Batch

STEPS = 5
"""Ratios that are tried of each block: its largest, and those that keep twice and four times as much."""
ITEMS = 8
"""Items of a batch that stand-ins are measured on."""
TRIED = 2
"""Items of a batch that every ratio of every block is tried on, each of which takes a forward pass: with 8 it would
cost as much as 20 to 40 steps at IMDB's length."""
BINS = 2000
"""How finely savings are told apart when ratios are chosen."""
Table = dict[str, dict[float, float]]
"""By name of a block and ratio."""


def menu(largest: float) -> list[float]:
    """Ratios to choose from, the largest first: what is kept doubles each time."""
    found = [1 - (1 - largest) * 2**step for step in range(STEPS)]
    return [round(ratio, 6) for ratio in found if ratio > 0.01]


@dataclass
class Trial:
    """The network that is calibrated, and the few batches it is calibrated on."""

    model: nn.Module
    base: nn.Module
    """The transformer whose first output is the last hidden states."""
    layers: Sequence[nn.Module]
    """Those of it, the first one first; blocks are told by their place in it."""
    now: Now
    batches: list[Batch]
    loss: Callable[[Batch], Tensor]
    """Runs ``model`` on a batch, as training does."""
    looked_at: Callable[[Batch], tuple[Tensor, ...]]
    """Index of the hidden states that count."""
    seen: list[Tensor] = field(default_factory=list)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Eval mode, no graph, and the last hidden states are looked at."""
        handle = self.base.register_forward_hook(lambda module, args, output: self.seen.append(output[0]))
        try:
            with mode(self.model, training=False), torch.no_grad():
                yield
        finally:
            self.now.only = None
            handle.remove()

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states of the tokens that count, float32, shape (tokens, d)."""
        self.loss(batch)
        return self.seen.pop()[self.looked_at(batch)].float()

    def answers(self, batch: Batch) -> tuple[Tensor, list[Any]]:
        """Those, and what each layer has answered on the way."""
        found: list[Any] = []
        handles = [layer.register_forward_hook(lambda *call: found.append(call[-1])) for layer in self.layers]
        try:
            return self.hidden(batch), found
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def known(self, answers: Sequence[Any]) -> Iterator[None]:
        """The first layers, as many as there are ``answers``, give these and compute nothing."""
        layers = self.layers[: len(answers)]
        for layer, answer in zip(layers, answers, strict=True):
            layer.__dict__["forward"] = lambda *args, _answer=answer, **kwargs: _answer
        try:
            yield
        finally:
            for layer in layers:
                del layer.__dict__["forward"]


def real(batch: Batch) -> Tensor:
    """True at real tokens, shape (items, length)."""
    return batch.inputs["attention_mask"].bool()


def few_items(batch: Batch, count: int = ITEMS) -> Batch:
    """The first ``count`` of a batch: enough to see what matters, at a fraction of a step's cost."""
    inputs = {name: value[:count] for name, value in batch.inputs.items()}
    labels, tokens = batch.labels[:count], int(inputs["attention_mask"].sum())
    positions = batch.positions if batch.positions is None else batch.positions[batch.positions < labels.numel()]
    return replace(
        batch, inputs=inputs, labels=labels, rows=batch.rows[:count], real_tokens=tokens, positions=positions
    )


def input_moments(trial: Trial, blocks: Iterable[Block], linear: bool = False) -> dict[Block, Moments]:
    """Mean and variance over real tokens of what goes into the inner layer of each block of the dense network.

    Args:
        linear: for feed-forward blocks also the prediction from the block's input, by least squares.
    """
    sums: dict[Block, Sums] = {block: Sums(linear and isinstance(block, FeedForward)) for block in blocks}
    entered: dict[Block, Tensor] = {}
    mask = torch.empty(0)

    def enter(block: Block) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            entered[block] = args[0][mask].float()

        return see

    def watch(block: Block) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            sums[block].add(args[0][mask].float(), entered.pop(block, None))

        return see

    handles = [block.inner.register_forward_pre_hook(watch(block)) for block in sums]
    handles += [b.first.register_forward_pre_hook(enter(b)) for b in sums if isinstance(b, FeedForward) and linear]
    try:
        with trial.quiet():
            for batch in trial.batches:
                mask = real(batch)
                trial.hidden(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {block: total.moments(base_weight(block.inner)) for block, total in sums.items()}


RIDGE = 0.01
"""Of the inputs' mean variance, added to each: with few tokens least squares follows what is only noise."""


class Sums:
    """Sums over tokens of activations h (d,), and of the inputs x (k,) that they are to be predicted from."""

    def __init__(self, linear: bool) -> None:
        self.linear = linear
        self.count = 0
        self.totals: list[Tensor] = []

    def add(self, h: Tensor, x: Tensor | None) -> None:
        """h: (tokens, d); x: (tokens, k)."""
        self.count += len(h)
        found = [h.sum(dim=0), h.square().sum(dim=0)]
        if self.linear:
            assert x is not None
            with torch.autocast(h.device.type, enabled=False):
                found += [x.sum(dim=0), x.T @ x, x.T @ h]
        self.totals = [a + b for a, b in zip(self.totals, found, strict=True)] if self.totals else found

    def moments(self, inner: Tensor) -> Moments:
        """Of all tokens that were added; ``inner``: the weight (out, d) that h is multiplied by."""
        mean, square, *inputs = (total / self.count for total in self.totals)
        variance, reach = (square - mean.square()).clamp(min=0), inner.float().square().sum(dim=0)
        if not inputs:
            return Moments(mean, variance, reach)
        input_mean, square_x, products = inputs
        covariance = square_x - torch.outer(input_mean, input_mean)
        cross = products - torch.outer(input_mean, mean)
        ridge = RIDGE * covariance.diagonal().mean()
        slope = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance)).to(covariance), cross)
        # The part of the variance that the prediction says: 2 P'C - P'VP, channel by channel.
        said = (slope * (2 * cross - covariance @ slope)).sum(dim=0)
        return Moments(mean, (variance - said).clamp(min=0), reach, slope, input_mean)


def sensitivities(trial: Trial, blocks: Mapping[Block, list[float]]) -> Table:
    """The mean over the batches, a few items of each, of every block's sensitivity at each of its ratios."""
    sums: Table = {block.name: dict.fromkeys(ratios, 0.0) for block, ratios in blocks.items()}
    with trial.quiet():
        for batch in (few_items(each, TRIED) for each in trial.batches):
            dense, answers = trial.answers(batch)
            for block, ratios in blocks.items():
                with trial.known(answers[: block.number]):  # which no later block changes
                    for ratio in ratios:
                        trial.now.only, block.ratio = block, ratio
                        error = (trial.hidden(batch) - dense).square().sum() / dense.square().sum()
                        sums[block.name][ratio] += float(error) / len(trial.batches)
                trial.now.only, block.ratio = None, 0.0
    return sums


def divide(target: float, savings: Table, costs: Table) -> dict[str, float]:
    """A ratio for every block, so that savings add up to ``target`` at least and costs to as little as can be.

    Args:
        savings: fraction of all multiplications that a block at a ratio leaves out.
        costs: its sensitivity.

    Raises:
        UserError: the largest ratios together do not reach the target.
    """
    largest = sum(max(row.values()) for row in savings.values())
    if largest < target - 1e-9:
        raise UserError(
            f"sparsity.ratio={target:g} is out of reach: with these layers, sparsity.ffn and sparsity.attention "
            f"at most {largest:.3f} can be left out; write a smaller ratio or larger ones of these"
        )
    # Best (cost, saving, ratios) for each bin of savings; all that reach the target share the last bin.
    best: dict[int, tuple[float, float, dict[str, float]]] = {0: (0.0, 0.0, {})}
    for name, row in savings.items():
        options = {0.0: 0.0, **row}
        grown: dict[int, tuple[float, float, dict[str, float]]] = {}
        for cost, saved, chosen in best.values():
            for ratio, saving in options.items():
                total = saved + saving
                place = BINS if total >= target - 1e-9 else int(total / target * BINS)
                paid = cost + (costs[name][ratio] if ratio else 0.0)
                if place not in grown or (paid, -total) < grown[place][:2]:
                    grown[place] = (paid, -total, {**chosen, name: ratio})
        best = {place: (cost, -saved, chosen) for place, (cost, saved, chosen) in grown.items()}
    return best[BINS][2]
