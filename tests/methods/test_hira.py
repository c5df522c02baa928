"""HiRA against PEFT's, against the equation, and against its own claims of cost."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import HiraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from peftbench.methods import injection
from peftbench.methods.hira_layer import HadamardLinear, fuse

from . import bases
from .bases import Base
from .test_contract import shrink

SCALE = 1.5


def layers(dtype=torch.float64, d=6, k=10, r=3, scale=SCALE, dropout=0.0, conv1d=False, bias=True):
    """PEFT's layer and ours on the same W0, A and s B, with random B; (theirs, ours)."""
    torch.manual_seed(1)
    linear = Conv1D(d, k) if conv1d else torch.nn.Linear(k, d, bias=bias)
    torch.nn.init.normal_(linear.weight)
    found = []
    for _ in range(2):
        config = HiraConfig(r=r, target_modules=["0"], hira_dropout=dropout, fan_in_fan_out=conv1d)
        net = torch.nn.Sequential(copy.deepcopy(linear))
        layer = get_peft_model(net, config, autocast_adapter_dtype=False).base_model.model[0]
        found.append(layer.to(dtype))
    theirs, ours = found
    with torch.no_grad():
        ours.hira_A["default"].copy_(theirs.hira_A["default"])
        ours.hira_B["default"].copy_(torch.randn(d, r))
        theirs.hira_B["default"].copy_(ours.hira_B["default"] * scale)
    fuse(ours, scale)
    return theirs, ours


def pair(layer):
    return layer.hira_A["default"], layer.hira_B["default"]


def gradients(layer, x):
    x = x.detach().requires_grad_()
    y = layer(x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(y.dtype)
    y.backward(grad)
    return y.detach(), x.grad, *(p.grad for p in pair(layer))


@pytest.mark.parametrize("shape", [(7, 10), (2, 5, 10)])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"conv1d": True}])
def test_outputs_and_gradients_equal_pefts(shape, options):
    theirs, ours = layers(**options)
    x = torch.randn(shape, dtype=torch.float64)
    y, dx, da, db = gradients(theirs, x)
    for mine, reference in zip(gradients(ours, x), (y, dx, da, db * SCALE), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


def test_output_is_the_papers_equation():
    _, ours = layers()
    x = torch.randn(4, 10, dtype=torch.float64)
    w0, bias = ours.base_layer.weight, ours.base_layer.bias
    update = ours.hira_B["default"] @ ours.hira_A["default"]
    torch.testing.assert_close(ours(x), x @ (w0 * (1 + SCALE * update)).T + bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv1d", [False, True])
def test_merged_weight_is_the_papers_equation(conv1d):
    _, ours = layers(conv1d=conv1d)
    x = torch.randn(4, 10, dtype=torch.float64)
    expected, w0 = ours(x), ours.base_layer.weight.detach().clone()
    update = ours.hira_B["default"] @ ours.hira_A["default"]
    ours.merge()
    torch.testing.assert_close(ours.base_layer.weight, w0 * (1 + SCALE * (update.T if conv1d else update)))
    torch.testing.assert_close(ours(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alone", [False, True])
def test_gradcheck(alone):
    torch.manual_seed(0)
    x, a, b = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 5), (2, 5), (4, 2)))
    w0, bias = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, a, b: HadamardLinear.apply(x, a, b, bias, lambda: w0, 0.7, alone), (x, a, b)
    )


def test_an_input_without_gradient_costs_no_product():
    _, ours = layers()
    x = torch.randn(7, 10, dtype=torch.float64)
    with FlopCounterMode(display=False) as with_dx:
        gradients(ours, x)
    expected = [p.grad.clone() for p in pair(ours)]
    ours.zero_grad()
    with FlopCounterMode(display=False) as without:
        y = ours(x)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    assert with_dx.get_total_flops() - without.get_total_flops() == 2 * 7 * 10 * 6 + 2 * 6 * 10 * 3
    assert all(torch.equal(p.grad, e) for p, e in zip(pair(ours), expected, strict=True))


def test_three_products_where_peft_has_five():
    n, d, k, r = 64, 24, 40, 2
    theirs, ours = layers(torch.float32, d=d, k=k, r=r)
    counted = []
    for layer in (theirs, ours):
        with FlopCounterMode(display=False) as counter:
            gradients(layer, torch.randn(n, k))
        counted.append(counter.get_total_flops())
    product, thin = 2 * n * d * k, 2 * d * k * r
    assert counted[1] == 3 * product + 4 * thin
    assert counted[0] >= 5 * product


def test_autograd_keeps_no_matrix_of_the_weights_size():
    d, k = 24, 40
    sizes = []
    for layer in layers(torch.float32, d=d, k=k, r=2):
        kept: list[torch.Size] = []
        base = layer.base_layer.weight.data_ptr()

        def pack(tensor, kept=kept, base=base):
            if tensor.data_ptr() != base:
                kept.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(torch.randn(8, k, requires_grad=True))
        sizes.append(sum(shape.numel() for shape in kept))
    theirs, ours = sizes
    assert ours == 8 * k + 2 * k + d * 2, "x, A and B"
    assert theirs > d * k


def test_dropout_takes_the_two_branch_form():
    theirs, ours = layers(dropout=0.5)
    x = torch.randn(2, 5, 10, dtype=torch.float64)
    found = []
    for layer in (theirs.train(), ours.train()):
        torch.manual_seed(3)
        found.append(gradients(layer, x))
    (y, dx, da, db), mine = found
    for one, reference in zip(mine, (y, dx, da, db * SCALE), strict=True):
        torch.testing.assert_close(one, reference, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(ours(x), y)


def test_bf16_autocast_is_about_as_exact_as_pefts():
    x = torch.randn(256, 128)
    errors = []
    for layer in layers(torch.float32, d=96, k=128, r=8, scale=2.0):
        layer.hira_B["default"].data *= 0.1
        exact = gradients(copy.deepcopy(layer).double(), x.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = gradients(layer, x)
        assert rounded[0].dtype == torch.bfloat16
        assert rounded[2].dtype == rounded[3].dtype == torch.float32
        errors.append([((r.double() - e).norm() / e.norm()).item() for r, e in zip(rounded, exact, strict=True)])
    theirs, ours = errors
    assert max(ours) < 0.01
    assert all(mine < 1.5 * other for mine, other in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    _, ours = layers()
    x = torch.randn(2, 5, 10, dtype=torch.float64)
    expected = gradients(ours, x)
    ours.zero_grad()
    x = x.requires_grad_()
    y = checkpoint(ours, x, use_reentrant=reentrant)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    for mine, reference in zip((y, x.grad, *(p.grad for p in pair(ours))), expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=0)


def test_disabled_adapter_is_the_base(base: Base):
    attached = base.attach(bases.method("hira"))
    before = bases.logits(attached.model)
    bases.train(attached)
    for name, p in attached.trainable():
        p.requires_grad_(not attached.is_head(name))
    with attached.model.disable_adapter():
        hidden = attached.model.get_base_model().distilbert(input_ids=bases.batch()[0]).last_hidden_state
    plain = base.load().model.distilbert(input_ids=bases.batch()[0]).last_hidden_state
    torch.testing.assert_close(hidden, plain)
    assert not torch.allclose(bases.logits(attached.model), before)


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize("options", [{}, {"quantize": "nf4"}])
def test_peft_loads_what_is_saved(any_base: Base, tmp_path, shrunk, options):
    method = bases.method("hira", **options)
    attached = any_base.attach(method, bases.run(alpha_ratio=None, alpha=10.0))
    bases.train(attached)
    if shrunk:
        shrink(attached)
    method.save(attached, tmp_path)
    network = any_base.load(method).model
    network.load_state_dict(load_file(tmp_path / "head.safetensors"), strict=False)
    theirs = PeftModel.from_pretrained(network, tmp_path).eval()
    assert "Fused" not in str(theirs)
    torch.testing.assert_close(bases.logits(theirs), bases.logits(attached.model), rtol=1e-4, atol=1e-5)


def test_we_load_what_peft_saves(any_base: Base, tmp_path):
    loaded = any_base.load()
    config = HiraConfig(r=4, target_modules=list(any_base.targets), fan_in_fan_out=any_base.targets == ("c_attn",))
    theirs = get_peft_model(loaded.model, config).eval()
    for name, p in theirs.named_parameters():
        if "hira_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    theirs.save_pretrained(tmp_path)
    method = bases.method("hira")
    attached = any_base.attach(method)
    injection.write_head(tmp_path, attached)
    method.restore(attached, tmp_path)
    torch.testing.assert_close(bases.logits(attached.model), bases.logits(theirs), rtol=1e-4, atol=1e-5)


def test_layers_of_different_rank_train(base: Base):
    attached = base.attach(bases.method("hira"), bases.run(pattern={"layer.1.attention.q_lin": 7}))
    assert [factor.a.shape[0] for factor in attached.factors] == [4, 4, 7, 4]
    assert all(p.requires_grad for factor in attached.factors for p in (factor.a, factor.b))
    losses = bases.train(attached)
    assert losses[-1] < losses[0]
