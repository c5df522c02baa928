"""Drives the sparse blocks through a training: predictors, calibration, dense start, and what was left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftbench.errors import UserError
from peftbench.models.layout import is_classifier
from peftbench.sparsity import contextual_calibration as calibration
from peftbench.sparsity.contextual_block import Block, Now
from peftbench.sparsity.contextual_blocks import Attention, FeedForward
from peftbench.sparsity.contextual_layout import find_layers, frozen_linears, output_tokens
from peftbench.sparsity.contextual_linear import uninstall
from peftbench.sparsity.contextual_predictor import token_weights
from peftbench.training.hooks import Hook
from peftbench.training.last_layer import FirstTokenLayer

if TYPE_CHECKING:
    from peftbench.methods.base import Attached
    from peftbench.sparsity.contextual import Contextual
    from peftbench.tasks.base import Batch

FRACTION = "flops/frozen_linear_fraction"


class ContextualHook(Hook):
    """Makes the base of ``attached.model`` sparse in train mode, once the dense start is over.

    Raises:
        Skip: the network is not one whose blocks are known.
        UserError: it has no such layers, or no token that could be told from the others as its output.
    """

    def __init__(self, sparsity: Contextual, attached: Attached) -> None:
        self.sparsity, self.model, self.now = sparsity, attached.model, Now()
        self.layout, self.base, self.layers = find_layers(attached.model)
        self.classifies = is_classifier(attached.model)
        if sparsity.output_tokens == "dense" and not self.classifies:
            raise UserError(
                "sparsity.output_tokens=dense is for classifiers, which read one token of a sequence; here a loss is "
                "taken at every token and all would be dense: write sparsity.output_tokens=sparse"
            )
        self.blocks: list[Block] = []
        for number in _chosen_layers(sparsity, self.layers):
            kinds = [FeedForward] * (sparsity.ffn > 0) + [Attention] * (sparsity.attention > 0)
            self.blocks += [kind(self.now, number, self.layers[number], self.layout) for kind in kinds]
        self.dense_per_token = sum(
            rows * columns for layer in self.layers for rows, columns in frozen_linears(layer, self.layout)
        )
        self.menus: dict[Block, list[float]] = {}
        """What each block may leave out."""
        self.sensitivities: calibration.Table = {}
        self.steps, self.total_steps = range(0), 0
        self.again: set[int] = set()
        """Steps before which stand-ins are measured again."""
        self._tokens = self._computed = self._dense = 0
        self._handle = attached.model.register_forward_pre_hook(self._see, with_kwargs=True)

    def prepare(self, batches: Iterator[Batch], loss: Callable[[Batch], Tensor]) -> None:
        """Make the predictors, and see whether the ratio can be reached, before anything is trained or measured."""
        for block in self.blocks:
            block.learn(self.sparsity.predictor_rank)
        self.menus = {block: calibration.menu(self._largest(block)) for block in self.blocks}
        if self.sparsity.ratio is not None:
            calibration.divide(self.sparsity.ratio, self._savings(), self._savings())
        self._batches, self._loss = batches, loss

    def calibrate(self) -> None:
        """Give every block its ratio, by what the network computes now: before the first sparse step."""
        trial = self._trial()
        self._measure(trial)
        chosen = {block.name: ratios[0] for block, ratios in self.menus.items()}
        if self.sparsity.ratio is not None:
            self.sensitivities = calibration.sensitivities(trial, self.menus)
            chosen = calibration.divide(self.sparsity.ratio, self._savings(), self.sensitivities)
        for block in self.blocks:
            block.ratio = chosen[block.name]

    def recalibrate(self) -> None:
        """Measure again, on the next batches, what stands for channels that are left out; ratios stay."""
        self._measure(self._trial())

    def _trial(self) -> calibration.Trial:
        """With the next batches."""
        few = [calibration.few_items(b) for b in itertools.islice(self._batches, self.sparsity.calibration_batches)]
        return calibration.Trial(self.model, self.base, self.layers, self.now, few, self._loss, self._looked_at)

    def _measure(self, trial: calibration.Trial) -> None:
        """What is left out stands from now on at what the network, as it is now, makes of it."""
        if self.sparsity.fill != "zero":
            linear = self.sparsity.fill == "linear"
            for block, moments in calibration.input_moments(trial, self.blocks, linear).items():
                block.stand_at(moments)

    def _savings(self) -> calibration.Table:
        return {
            block.name: {ratio: block.skipped_at(ratio) / self.dense_per_token for ratio in ratios}
            for block, ratios in self.menus.items()
        }

    def start(self, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        """Count out the dense start and end."""
        first = math.ceil(self.sparsity.dense_start * total_steps)
        self.steps = range(first, max(first, total_steps - math.ceil(self.sparsity.dense_end * total_steps)))
        self.total_steps, times = total_steps, self.sparsity.recalibrations
        spread = {len(self.steps) * (i + 1) // (times + 1) for i in range(times)} - {0}
        self.again = {self.steps[i] for i in spread}
        self._turn_to(0)
        self._computed = self._dense = 0

    def before_step(self, step: int) -> None:
        """Add up what the forward pass of this step has computed."""
        whole = self._tokens * self.dense_per_token
        self._dense += whole
        self._computed += whole - sum(block.skipped for block in self.blocks)

    def after_step(self, step: int) -> None:
        """Sparse or not in the next step; after the last one as in the sparse ones, whose FLOPs are to be counted."""
        self._turn_to(step + 1)
        if step + 1 == self.total_steps and self.steps:
            self.now.sparse = True

    def _turn_to(self, step: int) -> None:
        """Sparse or not from now on; what the step before has changed is measured where it is time to."""
        if self.steps and step == self.steps[0]:
            self.calibrate()
        elif step in self.again:
            self.recalibrate()
        self.now.sparse = step in self.steps

    def leave(self) -> None:
        """Leave the plain network behind, and none of the copies that sparse steps read."""
        self._handle.remove()
        for block in self.blocks:
            block.leave()
        uninstall(self.model)
        self.blocks, self.menus = [], {}

    def metrics(self) -> dict[str, float]:
        """What was computed of the frozen linear layers' products, over all steps, the dense ones too."""
        return {FRACTION: self._computed / self._dense} if self._dense else {}

    def decisions(self) -> dict[str, Any]:
        """The ratio of every block, and what it was chosen by."""
        return {
            "sparsity": {
                "sparse_steps": len(self.steps),
                "dense_steps": self.total_steps - len(self.steps),
                "measured_again_before_steps": sorted(self.again),
                "ratios": {block.name: block.ratio for block in self.blocks},
                "left_out_of_a_sparse_step": sum(b.skipped_at(b.ratio) for b in self.blocks if b.ratio)
                / self.dense_per_token,
                "sensitivities": {
                    name: {f"{ratio:g}": value for ratio, value in row.items()}
                    for name, row in self.sensitivities.items()
                },
            }
        }

    def _largest(self, block: Block) -> float:
        return self.sparsity.ffn if isinstance(block, FeedForward) else self.sparsity.attention

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note which tokens of the batch are real, before the network is given it."""
        mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids")
        self._tokens = 0 if ids is None else ids.numel()
        needed = self.now.only is not None or (self.now.sparse and module.training)
        self.now.weights = token_weights(mask) if needed and mask is not None else None
        self.now.outputs = None
        if needed and ids is not None and self.sparsity.output_tokens == "dense":
            self.now.outputs = output_tokens(torch.ones_like(ids) if mask is None else mask, self.layout)

    def _looked_at(self, batch: Batch) -> tuple[Tensor, ...]:
        """Index of the hidden states that count in calibration: of output tokens, or of all that are real."""
        mask = batch.inputs["attention_mask"]
        if self.classifies:
            return torch.arange(len(mask), device=mask.device), output_tokens(mask, self.layout)
        return mask.nonzero(as_tuple=True)


def _chosen_layers(sparsity: Contextual, layers: list[nn.Module]) -> list[int]:
    """Numbers of the layers that may be sparse."""
    asked, count = sparsity.layers, len(layers) - isinstance(layers[-1], FirstTokenLayer)
    if asked is None:
        early = 0 if sparsity.ratio is not None else max(1, len(layers) // 6)
        if early >= count:
            raise UserError(
                "sparsity=contextual: the only layer is the last one, of which only the token that the classifier "
                "reads is computed anyway: write sparsity=none"
                if count == 0
                else "sparsity=contextual leaves the first layer dense where no ratio is asked for, and no other is "
                "left: write sparsity.layers=[0]"
            )
        return list(range(early, count))
    if too_large := [number for number in asked if number >= len(layers)]:
        raise UserError(
            f"sparsity.layers={list(asked)}: there is no layer {too_large[0]}, they are 0 to {len(layers) - 1}"
        )
    if count in asked:
        raise UserError(
            f"sparsity.layers={list(asked)}: layer {count} is the last one, of which only the token that the "
            f"classifier reads is computed anyway: write numbers up to {count - 1}"
        )
    return sorted(asked)
