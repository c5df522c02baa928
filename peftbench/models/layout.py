"""Where the blocks of a network are: the one place that knows architectures by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import nn


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
    norm: Literal["before", "after"]
    """Whether a block's input is normalised, or the sum of its input and its output."""
    total_width: str | None = None
    """Attribute of ``core``: channels of all heads, where the attention reads it."""


BERT = Layout(
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
    norm="after",
)
LAYOUTS = {
    **dict.fromkeys(("bert", "electra", "roberta", "xlm-roberta"), BERT),
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
        norm="after",
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
        norm="before",
        total_width="split_size",
    ),
}


class Found(NamedTuple):
    """The blocks of one network."""

    layout: Layout
    base: nn.Module
    """The base transformer."""
    layers: list[nn.Module]


def network_of(model: Any) -> Any:
    """The network itself, where ``model`` is PEFT's wrapper around one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def architecture(model: Any) -> str:
    """As transformers calls it; of a network that is not from there, its class."""
    network = network_of(model)
    return str(getattr(getattr(network, "config", None), "model_type", type(network).__name__))


def find(model: Any) -> Found | None:
    """The blocks of ``model`` (PEFT's wrapper or the network itself); None: it is none of `LAYOUTS`."""
    network, layout = network_of(model), LAYOUTS.get(architecture(model))
    if layout is None:
        return None
    base = getattr(network, network.base_model_prefix, network)
    return Found(layout, base, list(base.get_submodule(layout.layers)))


def is_classifier(model: Any) -> bool:
    """Whether one token of a sequence is read, by a head that is there for classes."""
    return type(network_of(model)).__name__.endswith("ForSequenceClassification")
