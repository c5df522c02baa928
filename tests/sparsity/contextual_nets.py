"""Small networks with LoRA on them for the tests of ``sparsity=contextual``, float64 and without dropout."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import AutoConfig

from peftbench.methods.base import Attached
from peftbench.sparsity.contextual import Contextual
from peftbench.sparsity.contextual_blocks import Attention, FeedForward
from peftbench.sparsity.contextual_hook import ContextualHook
from peftbench.sparsity.contextual_predictor import Moments
from peftbench.tasks.base import Batch

VOCABULARY = 40
FIELDS: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64},
    "bert": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_inner": 64, "n_positions": 64, "pad_token_id": 0},
}
ARCHITECTURES = ["bert", "distilbert", "gpt2"]
DROPOUTS = ("dropout", "attention_dropout", "seq_classif_dropout", "hidden_dropout_prob")
DROPOUTS += ("attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop")
QV: dict[str, list[str]] = {"distilbert": ["q_lin", "v_lin"], "bert": ["query", "value"], "gpt2": ["c_attn"]}
FIRST = {"distilbert": ["lin1"], "bert": [r"intermediate.dense"], "gpt2": ["c_fc"]}
OUT = {"distilbert": ["out_lin"], "bert": ["attention.output.dense"], "gpt2": ["attn.c_proj"]}


def targets(architecture: str, which: str) -> list[str] | str:
    """Adapted layers: q and v; q, v and the first of the feed-forward block; the attention's output alone; or all."""
    if which == "all":
        return "all-linear"
    return {"qv": QV[architecture], "first": QV[architecture] + FIRST[architecture], "out": OUT[architecture]}[which]


def network(architecture: str, which: str = "qv", dtype: torch.dtype = torch.float64) -> Attached:
    """Random weights, also where training starts from zeros (biases and every B), so that all of them matter."""
    config = AutoConfig.for_model(
        architecture,
        vocab_size=VOCABULARY,
        initializer_range=0.3,
        **FIELDS[architecture],
        **dict.fromkeys(DROPOUTS, 0.0),
    )
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_config(config).to(dtype)
    names = targets(architecture, which)
    model = get_peft_model(model, LoraConfig(r=3, target_modules=names, task_type=None), autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or ".lora_B." in name:
                parameter.normal_(std=0.3)
    return Attached(model.eval())


def batch(padding: int = 0) -> dict[str, Tensor]:
    """Four sequences of 9, 9, 6 and 3 tokens, with more padding on request."""
    ids = torch.randint(1, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[2, 6:] = mask[3, 3:] = 0
    pad = torch.zeros(4, padding, dtype=ids.dtype)
    return {"input_ids": torch.cat([ids * mask, pad], 1), "attention_mask": torch.cat([mask, pad], 1)}


def options(**changes: Any) -> Contextual:
    given = {"ratio": None, "ffn": 0.75, "attention": 0.5, "layers": None, "dense_start": 0.0, "predictor_rank": 8}
    given |= {"fill": "zero", "dense_end": 0.0, "output_tokens": "sparse", "recalibrations": 0}
    return Contextual(**{"name": "contextual", "calibration_batches": 0, **given, **changes})


def given(padding: int = 0) -> Batch:
    """The batch as a task hands it over."""
    inputs = batch(padding)
    return Batch(inputs, torch.tensor([0, 1, 1, 0]), np.arange(4), int(inputs["attention_mask"].sum()))


def sparse(attached: Attached, **changes: Any) -> ContextualHook:
    """A hook on ``attached`` that is past its start, in train mode, calibrated on `given` if it is at all."""
    hook = options(**changes).hook(attached)
    assert isinstance(hook, ContextualHook)
    hook.prepare(itertools.repeat(given()), lambda each: attached.model(**each.inputs).logits.sum())
    hook.start(torch.optim.SGD([torch.zeros(1, requires_grad=True)]), 10)
    attached.model.train()
    return hook


def chosen(hook: ContextualHook) -> dict[str, list[Tensor]]:
    """By block, the channels it computed last: the hidden ones, or those of q and k and those of v."""
    found = {}
    for block in hook.blocks:
        choices = [block.choice] if isinstance(block, FeedForward) else [block.scores, block.values]  # type: ignore
        found[block.name] = [choice.index.sort().values for choice in choices if choice.index is not None]
    return found


READ = {"bert": [0, 0, 0, 0], "distilbert": [0, 0, 0, 0], "gpt2": [8, 8, 5, 2]}
"""The tokens of `batch` that a classifier's head reads."""


def mask_base(attached: Attached, hook: ContextualHook, read: list[int] | None = None) -> None:
    """Turn a plain network into the reference: each frozen layer computed whole, then masked as ``hook`` chose.

    Args:
        read: tokens that go through all hidden channels, by sequence.
    """
    base: Any = attached.model
    layers = base.get_base_model().base_model.get_submodule(hook.blocks[0].layout.layers)
    for block in hook.blocks:
        layer, layout = layers[block.number], block.layout
        if isinstance(block, FeedForward):
            keep = _mask(block.choice.index, block.channels)
            if read is not None:
                keep = (
                    keep.expand(4, 9, -1)
                    .clone()
                    .index_put_((torch.arange(4), torch.tensor(read)), torch.ones(1).to(keep))
                )
            _mask_output(layer.get_submodule(layout.first), keep)
            _mask_input(layer.get_submodule(layout.second), keep, block.moments, layer.get_submodule(layout.first))
        elif isinstance(block, Attention):
            scores, values = (_mask(choice.index, block.channels) for choice in (block.scores, block.values))
            keeps = [scores, scores, values] if len(layout.projections) == 3 else [torch.cat([scores, scores, values])]
            for name, keep in zip(layout.projections, keeps, strict=True):
                _mask_output(layer.get_submodule(name), keep)
            _mask_input(layer.get_submodule(layout.out), values, block.moments)


def _mask(index: Tensor | None, width: int) -> Tensor:
    assert index is not None
    return torch.zeros(width, dtype=torch.float64).index_fill(0, index, 1)


def _frozen(layer: Any) -> nn.Module:
    return getattr(layer, "base_layer", layer)


def _mask_output(layer: nn.Module, keep: Tensor) -> None:
    _frozen(layer).register_forward_hook(lambda module, args, output: output * keep)


def _mask_input(layer: nn.Module, keep: Tensor, moments: Moments | None, first: nn.Module | None = None) -> None:
    """Args:
    first: what is given the block's input, where stand-ins may depend on that.
    """
    given: list[Tensor] = []
    if first is not None:
        first.register_forward_pre_hook(lambda module, args: given.append(args[0]))

    def mask(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rest: Tensor | float = 0.0
        if moments is not None:
            rest = moments.mean.to(keep)
            if moments.slope is not None and moments.input_mean is not None:
                rest = rest + (given.pop() - moments.input_mean) @ moments.slope.to(keep)
        return (args[0] * keep + rest * (1 - keep),)

    _frozen(layer).register_forward_pre_hook(mask)
