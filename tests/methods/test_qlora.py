"""QLoRA: what is 4-bit and what is not, equality with LoRA on the dequantized weights, and a base that stays put."""

from __future__ import annotations

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from . import bases
from .bases import Base

FOUR_BIT = [("qlora", {}), ("hira", {"quantize": "nf4"})]


def four_bit(model) -> dict[str, bnb.nn.Linear4bit]:
    return {name: module for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}


def test_linear_layers_are_four_bit_and_nothing_else(any_base: Base):
    model = any_base.load(bases.method("qlora")).model
    found = four_bit(model)
    assert found
    assert not any(name.split(".")[0] in any_base.head for name in found)
    for name, p in model.named_parameters():
        owner = name.rpartition(".")[0]
        if owner in found and name.endswith(".weight"):
            assert p.dtype == torch.uint8
            assert p.quant_state.quant_type == "nf4"
            assert p.quant_state.nested
        else:
            assert p.dtype == torch.float32, "embeddings, norms, biases and the head stay as they are"


def test_options_reach_bitsandbytes():
    method = bases.method("qlora", quant_type="fp4", double_quant=False, compute_dtype="bf16")
    config = method.load_kwargs(bases.run(), ("head",), torch.float32)["quantization_config"]
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("fp4", False)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert config.llm_int8_skip_modules == ["head"]
    auto = bases.method("qlora").load_kwargs(bases.run(), (), torch.bfloat16)["quantization_config"]
    assert auto.bnb_4bit_compute_dtype == torch.bfloat16
    assert auto.llm_int8_skip_modules is None


def test_equals_lora_on_the_dequantized_weights(any_base: Base):
    """The weights are quantized here once more, from the dense checkpoint, without transformers."""
    quantized = any_base.attach(bases.method("qlora"))
    loaded = any_base.load()
    names = {name.replace(".base_layer", "") for name in four_bit(quantized.model.get_base_model())}
    for name in names:
        layer = loaded.model.get_submodule(name)
        transposed = not isinstance(layer, torch.nn.Linear)
        weight = layer.weight.data.T.contiguous() if transposed else layer.weight.data
        rounded = dequantize_4bit(*quantize_4bit(weight, compress_statistics=True, quant_type="nf4"))
        assert (rounded - weight).abs().max() > 1e-3
        layer.weight.data = rounded.T.contiguous() if transposed else rounded
    dense = bases.method("lora").attach(loaded, bases.run())
    for (name, p), (other, q) in zip(quantized.trainable(), dense.trainable(), strict=True):
        assert name == other
        value = torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
        p.data, q.data = value.clone(), value.clone()
    torch.testing.assert_close(bases.logits(quantized.model), bases.logits(dense.model.eval()), rtol=1e-4, atol=1e-4)
    bases.loss(quantized.model).backward()
    bases.loss(dense.model).backward()
    for (name, p), (_, q) in zip(quantized.trainable(), dense.trainable(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("name", "options"), FOUR_BIT)
@pytest.mark.parametrize("autocast", [False, True])
def test_the_base_survives_validation_in_mid_training(base: Base, name, options, autocast):
    method = bases.method(name, **options)
    loaded = base.load(method)
    for module in four_bit(loaded.model).values():
        module.support_avx512bf16_for_cpu = True  # as bitsandbytes finds on such a CPU
    attached = method.attach(loaded, bases.run())
    weights = {name: layer.weight for name, layer in four_bit(attached.model).items()}
    before = {name: dequantize_4bit(weight.data, weight.quant_state) for name, weight in weights.items()}
    first = bases.train(attached, steps=1)[-1]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        attached.model.eval()(input_ids=bases.batch()[0])
    attached.model.train()
    for name, weight in weights.items():
        assert not getattr(weight.quant_state, "packing_format_for_cpu", False)
        assert torch.equal(dequantize_4bit(weight.data, weight.quant_state), before[name])
    if not autocast:
        assert bases.loss(attached.model).item() == pytest.approx(first, rel=1e-6)
    bases.train(attached, steps=1)


@pytest.mark.parametrize(("name", "options"), FOUR_BIT)
def test_merges_into_a_dense_network_without_rounding(any_base: Base, name, options):
    method = bases.method(name, **options)
    attached = any_base.attach(method)
    for factor in attached.factors:
        torch.nn.init.normal_(factor.b, std=0.003)  # far less than a step of NF4
    expected = bases.logits(attached.model)
    assert not torch.allclose(expected, bases.logits(any_base.load(method).model), atol=1e-4)
    merged = method.merge(attached)
    assert not four_bit(merged)
    assert all(p.is_floating_point() for p in merged.parameters())
    torch.testing.assert_close(bases.logits(merged), expected, rtol=1e-4, atol=1e-5)
    merged.to(torch.float64)  # transformers forbids it for networks it takes for quantized
