"""From one target to a ratio for every block: those go furthest whose output the network misses least.

The sensitivity of a block at a ratio is ``||H - H'||^2 / ||H||^2`` over the real tokens of a few training batches: H is
the last hidden states of the dense network, H' those with this block alone sparse. Dropout is off, so nothing here is
random. The choice minimises the sum of sensitivities among those that leave out enough (a multiple-choice knapsack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peftbench.errors import UserError
from peftbench.measuring.mode import mode

if TYPE_CHECKING:
    from peftbench.sparsity.contextual_blocks import Block, Now
    from peftbench.tasks.base import Batch

STEPS = 3
"""Ratios that are tried of each block: its largest, and those that keep twice and four times as much."""
BINS = 2000
"""How finely savings are told apart when ratios are chosen."""
Table = dict[str, dict[float, float]]
"""By name of a block and ratio."""


def menu(largest: float) -> list[float]:
    """Ratios to choose from, the largest first: what is kept doubles each time."""
    found = [1 - (1 - largest) * 2**step for step in range(STEPS)]
    return [round(ratio, 6) for ratio in found if ratio > 0.01]


@torch.no_grad()
def sensitivities(
    model: nn.Module,
    base: nn.Module,
    now: Now,
    blocks: Mapping[Block, list[float]],
    batches: Iterable[Batch],
    loss: Callable[[Batch], Tensor],
) -> Table:
    """The mean over ``batches`` of every block's sensitivity at each of its ratios.

    Args:
        base: the transformer whose first output is the last hidden states.
        loss: runs ``model`` on a batch, as training does.
    """
    sums: Table = {block.name: dict.fromkeys(ratios, 0.0) for block, ratios in blocks.items()}
    seen: list[Tensor] = []
    count = 0
    handle = base.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    try:
        with mode(model, training=False):
            for batch in batches:
                count += 1
                loss(batch)
                real = batch.inputs["attention_mask"].to(seen[-1].device).bool()
                dense = seen.pop()[real].float()
                for block, ratios in blocks.items():
                    for ratio in ratios:
                        now.only, block.ratio = block, ratio
                        loss(batch)
                        error = (seen.pop()[real].float() - dense).square().sum() / dense.square().sum()
                        sums[block.name][ratio] += float(error)
                    now.only, block.ratio = None, 0.0
    finally:
        now.only = None
        handle.remove()
    return {name: {ratio: total / count for ratio, total in row.items()} for name, row in sums.items()}


def divide(target: float, savings: Table, costs: Table) -> dict[str, float]:
    """A ratio for every block, so that savings add up to ``target`` at least and costs to as little as can be.

    Args:
        savings: fraction of all multiplications that a block at a ratio leaves out.
        costs: its sensitivity.

    Raises:
        UserError: the largest ratios together do not reach the target.
    """
    largest = sum(max(row.values()) for row in savings.values())
    if largest < target:
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
