"""Where the blocks of a network are: the one place that knows architectures by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from peftbench.errors import Skip


@dataclass(frozen=True)
class Layout:
    """Module names within one layer, and what its attention calls its sizes."""

    layers: str
    """The list of layers, within the base transformer."""
    attention: str
    """Called with the hidden states that q, k and v are made of."""
    core: str
    """Holds the attention's sizes."""
    projections: tuple[str, ...]
    """q, k and v, or one layer that is all three side by side."""
    out: str
    first: str
    """From the hidden states to the hidden channels of the feed-forward block."""
    activation: str
    second: str
    head_width: str
    """Attribute of ``core``: channels of a head."""
    heads: str
    read: Literal["first", "last"]
    """Which real token of a sequence a classifier's head reads: its output token."""
    total_width: str | None = None
    """Attribute of ``core``: channels of all heads, where the attention reads it."""


LAYOUTS = {
    "bert": Layout(
        layers="encoder.layer",
        attention="attention",
        core="attention.self",
        projections=("attention.self.query", "attention.self.key", "attention.self.value"),
        out="attention.output.dense",
        first="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        second="output.dense",
        head_width="attention_head_size",
        heads="num_attention_heads",
        read="first",
    ),
    "distilbert": Layout(
        layers="transformer.layer",
        attention="attention",
        core="attention",
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        out="attention.out_lin",
        first="ffn.lin1",
        activation="ffn.activation",
        second="ffn.lin2",
        head_width="attention_head_size",
        heads="n_heads",
        read="first",
    ),
    "gpt2": Layout(
        layers="h",
        attention="attn",
        core="attn",
        projections=("attn.c_attn",),
        out="attn.c_proj",
        first="mlp.c_fc",
        activation="mlp.act",
        second="mlp.c_proj",
        head_width="head_dim",
        heads="num_heads",
        read="last",
        total_width="split_size",
    ),
}


def find_layers(model: Any) -> tuple[Layout, Any, list[nn.Module]]:
    """The layout of ``model`` (PEFT's wrapper or the network itself), its base transformer and its layers.

    Raises:
        Skip: the architecture is not one of `LAYOUTS`.
    """
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = getattr(getattr(network, "config", None), "model_type", type(network).__name__)
    if kind not in LAYOUTS:
        raise Skip(
            f"sparsity=contextual knows the blocks of {', '.join(LAYOUTS)}, not of {kind}: write sparsity=none, or add "
            "the architecture to peftbench/sparsity/contextual_layout.py"
        )
    layout = LAYOUTS[kind]
    base = getattr(network, network.base_model_prefix, network)
    return layout, base, list(base.get_submodule(layout.layers))


def output_tokens(mask: Tensor, layout: Layout) -> Tensor:
    """Where the head of a classifier reads each sequence, int64, shape (sequences,).

    Args:
        mask: 1 (or True) at real tokens, shape (sequences, length).
    """
    if layout.read == "first":
        return mask.new_zeros(len(mask), dtype=torch.int64)
    return (mask.bool() * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)


def is_classifier(model: Any) -> bool:
    """Whether one token of a sequence is read, by a head that is there for classes."""
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(network).__name__.endswith("ForSequenceClassification")


def frozen_linears(layer: nn.Module) -> Iterator[tuple[int, int]]:
    """(out, in) features of every frozen linear layer in one of the layers."""
    from peft.tuners.lora.layer import LoraLayer
    from transformers.pytorch_utils import Conv1D

    for module in layer.modules():
        if isinstance(module, LoraLayer):
            continue
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            yield module.out_features, module.in_features
        elif isinstance(module, Conv1D) and not module.weight.requires_grad:
            yield module.nf, module.nx
