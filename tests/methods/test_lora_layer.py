"""LoRA's layer against PEFT's own, against float64, and against its claim that it computes products only."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from support_ops import Ops
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from peftbench.methods.lora_layer import FusedLinear, LowRankLinear, fuse

D, K, R = 6, 10, 3


def layers(dtype=torch.float64, d=D, k=K, dropout=0.0, conv1d=False, bias=True) -> tuple[Linear, FusedLinear]:
    """PEFT's layer and ours on the same W0, A and B, B random."""
    torch.manual_seed(1)
    linear = Conv1D(d, k) if conv1d else nn.Linear(k, d, bias=bias)
    nn.init.normal_(linear.weight)
    config = LoraConfig(r=R, lora_alpha=5, target_modules=["0"], lora_dropout=dropout, fan_in_fan_out=conv1d)
    theirs = get_peft_model(nn.Sequential(linear), config, autocast_adapter_dtype=False).base_model.model
    nn.init.normal_(theirs[0].lora_B["default"].weight)
    ours = copy.deepcopy(theirs)
    fuse(ours)
    assert type(ours[0]) is FusedLinear
    return theirs[0].to(dtype), ours[0].to(dtype)


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """y, dx, dA and dB."""
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(y.dtype))
    return [y.detach(), x.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]


@pytest.mark.parametrize("shape", [(7, K), (2, 5, K)])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"conv1d": True}])
def test_outputs_and_gradients_equal_pefts(shape, options) -> None:
    theirs, ours = layers(**options)
    x = torch.randn(shape, dtype=torch.float64)
    for mine, reference in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    x, a, b = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 5), (2, 5), (4, 2)))
    w0 = torch.randn(4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, a, b: LowRankLinear.apply(x, a, b, lambda x: x @ w0.T, lambda: w0, 0.7), (x, a, b)
    )


@pytest.mark.parametrize("number", [0, 1, 2, 3], ids=["y", "dx", "dA", "dB"])
def test_under_autocast_it_is_no_further_from_the_truth_than_pefts(number: int) -> None:
    d, k = 48, 64
    x = torch.randn(4, 32, k)
    exact = gradients(layers(d=d, k=k)[0], x.double())[number]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs, ours = (gradients(layer, x)[number] for layer in layers(torch.float32, d, k))
    assert ours.dtype == theirs.dtype
    mine, reference = (torch.linalg.norm(found.double() - exact) / torch.linalg.norm(exact) for found in (ours, theirs))
    assert mine <= 1.1 * reference < 0.02


def test_every_pass_over_the_tokens_is_a_matrix_product() -> None:
    d, k = 48, 64
    counted = []
    for layer in layers(torch.float32, d, k):
        x = torch.randn(4, 33, k).to(torch.bfloat16).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16), Ops(4 * 33) as ops:
            y = layer(x)
            y.backward(torch.randn_like(y))
        del ops.counts["randn_like"]
        counted.append(ops.counts)
    theirs, ours = counted
    # Forward H, x W0' and the pair on top of it; backward G C, G W0 and the pair on top of it.
    products = {"mm", "addmm", "_linear_pointwise"}
    assert set(ours) <= {*products, "new_empty_strided", "empty"}, ours
    assert sum(ours[product] for product in products) == 6
    assert theirs["_to_copy"] + theirs["add"] + theirs["mul"] > 0


def test_an_input_without_gradient_costs_no_product() -> None:
    _, ours = layers()
    x = torch.randn(7, K, dtype=torch.float64)
    with FlopCounterMode(display=False) as with_dx:
        gradients(ours, x)
    with FlopCounterMode(display=False) as without:
        ours(x).sum().backward()
    product, thin = 2 * 7 * K * D, 2 * 7 * R
    assert with_dx.get_total_flops() == 2 * product + thin * (3 * K + 3 * D)
    assert with_dx.get_total_flops() - without.get_total_flops() == product + thin * K


def test_dropout_is_pefts() -> None:
    x = torch.randn(2, 5, K, dtype=torch.float64)
    found = []
    for layer in layers(dropout=0.5):
        torch.manual_seed(3)
        found.append(gradients(layer.train(), x))
    for mine, reference in zip(*found, strict=True):
        assert torch.equal(mine, reference)


def test_switched_off_or_merged_it_is_the_base() -> None:
    theirs, ours = layers()
    x = torch.randn(4, K, dtype=torch.float64)
    expected = ours(x)
    ours.enable_adapters(False)
    assert torch.equal(ours(x), ours.base_layer(x))
    ours.enable_adapters(True)
    ours.merge()
    torch.testing.assert_close(ours(x), expected, rtol=1e-12, atol=1e-12)
    ours.unmerge()
    theirs.merge()
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-12, atol=1e-12)
