"""4-bit base networks: how they are loaded, kept as loaded, and merged (bitsandbytes; Dettmers et al., 2023)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

QuantType = Literal["nf4", "fp4"]


def load_kwargs(
    head: tuple[str, ...], dtype: torch.dtype, quant_type: QuantType = "nf4", double_quant: bool = True
) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for a 4-bit base.

    All linear layers but the head become 4-bit; embeddings and norms keep the checkpoint's dtype. The head must be
    named whole (DistilBERT: ``pre_classifier`` too), or it would be quantized and could not be trained.

    Args:
        head: module names of the task head.
        dtype: the dtype that matrix products are computed in.
        quant_type: the 4-bit data type.
        double_quant: quantize the block constants too (0.5 -> 0.127 bit per parameter).
    """
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=dtype,
        # None lets transformers leave out the output embedding, which a list, even an empty one, would not.
        llm_int8_skip_modules=list(head) or None,
    )
    # On the CPU as any other base, also where there is a GPU: head and rounding are then the same everywhere.
    return {"quantization_config": config, "device_map": {"": "cpu"}}


def described(model: nn.Module) -> dict[str, Any]:
    """How the base was quantized when it was loaded, as the keyword arguments of transformers' configuration."""
    config: Any = getattr(model, "config", None)
    how = getattr(config, "quantization_config", None)
    if how is None:
        return {}
    return {"quantization": {name: value for name, value in how.to_diff_dict().items() if not name.startswith("_")}}


def is_four_bit(model: nn.Module) -> bool:
    """Whether the base network was loaded in 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def prepare(model: nn.Module) -> None:
    """Let a 4-bit base compute as `peftbench.methods.four_bit` says; any other base is left alone."""
    if is_four_bit(model):
        from peftbench.methods import four_bit

        four_bit.take_over(model)


def dense_weight(weight: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The weight (d, k) of a linear layer as numbers: itself, or where it is 4-bit dequantized.

    Args:
        dtype: what to dequantize to; None is float32.
    """
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    import torch
    from bitsandbytes.functional import dequantize_4bit

    wanted = copy.copy(state)
    wanted.dtype = dtype or torch.float32
    return dequantize_4bit(weight.data, wanted)


def merge_dense(model: PeftModel) -> nn.Module:
    """Fold a low-rank update into a dequantized copy of its 4-bit base, layer by layer.

    Quantizing again (as PEFT's own merge does) would round the update away, so the merged network is a plain dense one
    in float32: as exact as the unmerged one, and as large as a dense base.
    """
    from bitsandbytes.nn import Linear4bit

    from peftbench.methods.factors import pairs

    base: Any = model.get_base_model()
    for pair in pairs(model):
        linear = _dense_linear(pair.module.get_base_layer())
        linear.weight.data = pair.fold(linear.weight.data)
        base.set_submodule(pair.layer, linear)
    for name, module in list(base.named_modules()):
        if isinstance(module, Linear4bit):
            base.set_submodule(name, _dense_linear(module))
    base.hf_quantizer.remove_quantization_config(base)
    base.is_loaded_in_4bit = False
    return base


def _dense_linear(layer: Any) -> nn.Linear:
    import torch
    from torch import nn

    weight = dense_weight(layer.weight)
    with torch.device("meta"):
        linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias.data.to(weight.dtype), requires_grad=False)
    return linear
