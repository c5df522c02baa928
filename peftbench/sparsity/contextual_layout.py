"""What contextual sparsity must know of a network's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.errors import Skip
from peftbench.models import layout as layouts
from peftbench.models.layout import Found, Layout
from peftbench.training.last_layer import FirstTokenLayer


def find_layers(model: Any) -> Found:
    """The blocks of ``model``.

    Raises:
        Skip: the architecture is not a known one.
    """
    found = layouts.find(model)
    if found is None:
        kind = layouts.architecture(model)
        raise Skip(
            f"sparsity=contextual knows the blocks of {', '.join(layouts.LAYOUTS)}, not of {kind}: write "
            "sparsity=none, or add the architecture to peftbench/models/layout.py"
        )
    return found


def output_tokens(mask: Tensor, layout: Layout) -> Tensor:
    """Where the head of a classifier reads each sequence, int64, shape (sequences,).

    Args:
        mask: 1 (or True) at real tokens, shape (sequences, length).
    """
    if layout.read == "first":
        return mask.new_zeros(len(mask), dtype=torch.int64)
    return (mask.bool() * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)


def frozen_linears(layer: nn.Module, layout: Layout) -> Iterator[tuple[int, int]]:
    """(out, in) features of every frozen linear layer in one of the layers that multiplies every token."""
    from peft.tuners.lora.layer import LoraLayer
    from transformers.pytorch_utils import Conv1D

    whole = [layer]
    if isinstance(layer, FirstTokenLayer):
        core: Any = layer.get_submodule(layout.core)
        whole = [core.get_submodule(name) for name in core.reads_every_token()]
    for module in (module for part in whole for module in part.modules()):
        if isinstance(module, LoraLayer):
            continue
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            yield module.out_features, module.in_features
        elif isinstance(module, Conv1D) and not module.weight.requires_grad:
            yield module.nf, module.nx
