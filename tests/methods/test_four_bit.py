"""4-bit layers against dense ones that hold the dequantized weights, and against bitsandbytes' own."""

from __future__ import annotations

import copy

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import nn

from peftbench.methods.four_bit import FourBitLinear, take_over
from peftbench.methods.frozen import hold_in
from peftbench.methods.quantization import dense_weight

from . import bases
from .bases import Base

K, D = 128, 64


def layers(compute: torch.dtype) -> tuple[Linear4bit, FourBitLinear, nn.Linear]:
    """bitsandbytes' layer, ours, and a dense one of the same numbers."""
    torch.manual_seed(0)
    dense = nn.Linear(K, D).requires_grad_(False)
    theirs = Linear4bit(K, D, compute_dtype=compute, quant_type="nf4")
    theirs.load_state_dict(dense.state_dict())
    theirs = theirs.to("cpu").requires_grad_(False)  # which quantizes
    found = nn.Sequential(copy.deepcopy(theirs))
    take_over(found)
    dense.weight.data = dequantize_4bit(theirs.weight.data, theirs.weight.quant_state)
    hold_in(dense, compute)
    return theirs, found[0], dense


def answers(layer: nn.Module, autocast: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """y and dx of a float32 input (3, 5, K)."""
    x = torch.randn(3, 5, K, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = layer(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype))
    return y.detach(), x.grad


@pytest.mark.parametrize(("compute", "autocast"), [(torch.float32, False), (torch.bfloat16, True)])
def test_equals_the_dense_layer_of_the_dequantized_weights_to_the_last_bit(compute, autocast):
    _, ours, dense = layers(compute)
    assert type(ours) is FourBitLinear
    for mine, expected in zip(answers(ours, autocast), answers(dense, autocast), strict=True):
        assert mine.dtype == expected.dtype
        assert torch.equal(mine, expected)


@pytest.mark.parametrize(("compute", "autocast"), [(torch.float32, False), (torch.bfloat16, True)])
def test_computes_what_bitsandbytes_computes(compute, autocast):
    theirs, ours, _ = layers(compute)
    for mine, expected in zip(answers(ours, autocast), answers(theirs, autocast), strict=True):
        assert torch.equal(mine.float(), expected)


def test_without_autocast_the_answer_has_the_inputs_dtype():
    _, ours, _ = layers(torch.bfloat16)
    assert answers(ours, autocast=False)[0].dtype == torch.float32


def test_the_dtype_it_was_told_wins_over_autocasts():
    _, ours, dense = layers(torch.float32)
    y, _ = answers(ours, autocast=True)
    assert y.dtype == torch.float32
    assert torch.equal(y, answers(dense, autocast=False)[0])


def test_weights_are_dequantized_to_what_is_asked_for():
    _, ours, _ = layers(torch.bfloat16)
    exact = dense_weight(ours.weight)
    assert exact.dtype == torch.float32
    assert torch.equal(dense_weight(ours.weight, torch.bfloat16), exact.to(torch.bfloat16))
    assert ours.weight.quant_state.dtype == torch.bfloat16, "the layer's own state is left alone"


def kept(base: Base, name: str) -> int:
    """Bytes of activations that autograd keeps of one forward pass under autocast."""
    method = bases.method(name)
    loaded = base.load(method, torch.bfloat16)
    attached = method.attach(loaded, bases.run())
    hold_in(attached.model, torch.bfloat16)
    owned = {p.untyped_storage().data_ptr() for p in attached.model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            storages[storage.data_ptr()] = storage
        return tensor

    attached.model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        attached.model(input_ids=bases.batch()[0].repeat(20, 2))
    return sum(storage.nbytes() for storage in storages.values())


def test_a_four_bit_base_makes_autograd_keep_no_more_than_a_dense_one(base: Base):
    assert kept(base, "qlora") <= kept(base, "lora")
