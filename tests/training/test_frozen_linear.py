"""A frozen layer whose product adds the bias: as near to the truth as torch's own, in place of two passes more."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from training.test_last_layer import inputs, network
from transformers.pytorch_utils import Conv1D

from peftbench.bench.contenders import Ops
from peftbench.measuring.flops import flops_per_token
from peftbench.methods import frozen
from peftbench.methods.frozen import hold_in
from peftbench.tasks.base import Batch
from peftbench.training import attention, frozen_linear

D, K = 24, 40
needs_it = pytest.mark.skipif(not frozen.adds_bias(), reason="this torch or processor has no such product in bf16")


def layer(kind: type[nn.Module], *, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    found = Conv1D(D, K) if kind is Conv1D else nn.Linear(K, D, bias=bias)
    if bias:
        nn.init.normal_(found.bias)
    return found.requires_grad_(False)


def both(kind: type[nn.Module]) -> list[nn.Module]:
    """A frozen layer held in bf16, and the same whose product adds the bias."""
    plain = layer(kind)
    hold_in(plain, torch.bfloat16)
    ours = copy.deepcopy(plain)
    frozen_linear.install(ours)
    return [plain, ours]


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_its_answer_may_be_added_to_in_place(kind) -> None:
    """As AdaLoRA's layer does in PEFT, and as torch's own linear layer allows."""
    x, more = torch.randn(3, 5, K, requires_grad=True), torch.randn(3, 5, D, requires_grad=True)
    found = []
    for model in both(kind):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
            y += more
        found.append(torch.autograd.grad(y.float().square().sum(), (x, more)))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (0, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_answer_and_gradient_are_as_near_to_float64_as_torchs(kind, dtype, shape) -> None:
    x = torch.randn(*shape, K).to(dtype)
    plain, ours = both(kind)
    grad = torch.randn(*shape, D)
    found = []
    for model in (plain, ours, copy.deepcopy(plain).double()):
        exact = model.weight.dtype == torch.float64
        given = x.clone().to(torch.float64 if exact else dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not exact):
            y = model(given)
        y.backward(grad.to(y.dtype))
        found.append((y.detach(), given.grad))
    for theirs, mine, truth in zip(*found, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        off, reference = ((one.double() - truth).norm() for one in (mine, theirs))
        assert off <= 1.05 * reference
        assert reference <= 0.01 * truth.norm()


@needs_it
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_it_is_one_product_and_no_other(kind) -> None:
    _, ours = both(kind)
    x = torch.randn(3, 5, K, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16), Ops() as ops:
        ours(x).sum().backward()
    assert {name: ops.counts[name] for name in ("_linear_pointwise", "mm", "addmm", "_to_copy")} == {
        "_linear_pointwise": 1,
        "mm": 1,
        "addmm": 0,
        "_to_copy": 0,
    }


def test_a_torch_without_it_uses_its_own(monkeypatch) -> None:
    monkeypatch.setattr(frozen, "adds_bias", lambda: False)
    plain, ours = both(nn.Linear)
    assert type(ours) is type(plain)
    with Ops() as ops:
        frozen.product(torch.randn(3, K, dtype=torch.bfloat16), ours.weight, ours.bias)
    assert (ops.counts["addmm"], ops.counts["_linear_pointwise"]) == (1, 0)


def test_what_is_compiled_has_torchs_own() -> None:
    # Which is lowered to that product where it pays; the product itself is not.
    graphs: list[str] = []

    def keep(graph, inputs):
        graphs.append(graph.code)
        return graph

    x, weight, bias = (torch.randn(*shape).to(torch.bfloat16) for shape in ((3, K), (D, K), (D,)))
    torch.compile(frozen.product, backend=keep, fullgraph=True)(x, weight, bias)
    (code,) = graphs
    assert "linear(" in code
    assert "_linear_pointwise" not in code


def test_other_layers_stay_as_they_are() -> None:
    trained = layer(nn.Linear).to(torch.bfloat16).requires_grad_()
    without = layer(nn.Linear, bias=False).to(torch.bfloat16)
    model = nn.Sequential(layer(nn.Linear), trained, without, nn.LayerNorm(K))
    before = [type(module) for module in model.modules()]
    frozen_linear.install(model)
    assert [type(module) for module in model.modules()] == before


def test_without_autocast_it_is_torchs_own_layer() -> None:
    plain, ours = (model.float() for model in both(nn.Linear))
    x = torch.randn(3, K)
    assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2"])
def test_a_network_counts_the_same_flops_and_is_its_own_again_afterwards(kind: str) -> None:
    plain = network(kind, attention.NAME).float().train()
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_("classifier" in name or "score" in name)
    hold_in(plain, torch.bfloat16)
    classes = [type(module) for module in plain.modules()]
    given = inputs(padded=True)
    batch = Batch(given, given["labels"], np.arange(4), real_tokens=1)

    def counted() -> float | None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return flops_per_token(plain, batch, lambda model, batch: model(**batch.inputs).loss)

    expected = counted()
    frozen_linear.install(plain)
    assert ([type(module) for module in plain.modules()] != classes) == frozen.adds_bias()
    assert counted() == expected
    frozen_linear.uninstall(plain)
    assert [type(module) for module in plain.modules()] == classes
