"""Dropout: the distribution that is asked for, and one mask for both directions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftbench.training import dropout
from peftbench.training.dropout import Bits, CpuDropout

DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    Bits.seed(0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_drops_the_share_p_and_keeps_the_mean(p, dtype) -> None:
    count = 400_000
    y = dropout.dropout(torch.ones(count, dtype=dtype), p).double()
    dropped = float((y == 0).double().mean())
    # Five standard errors of a binomial share, and half a step of the resolution.
    assert abs(dropped - p) < 5 * (p * (1 - p) / count) ** 0.5 + 2**-16
    kept = y[y != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2**-8 if dtype == torch.bfloat16 else 2**-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_passes_where_the_value_did(dtype) -> None:
    x = torch.randn(33, 7, dtype=dtype, requires_grad=True)
    y = dropout.dropout(x, 0.4)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad != 0, y.detach() != 0)
    expected = (y.detach() / x.detach())[y.detach() != 0]
    assert torch.allclose(x.grad[x.grad != 0], expected, rtol=2**-6 if dtype == torch.bfloat16 else 1e-5)


def test_entries_are_independent_of_their_neighbours() -> None:
    # Four decisions come from one 64-bit number: no two of them may agree more often than chance.
    keep = (Bits.keep(torch.Size([400_000]), 2**14) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8):
        correlation = float((keep[lag:] * keep[:-lag]).mean() / 0.25)
        assert abs(correlation) < 5 / 400_000**0.5


def test_the_sequence_follows_the_seed() -> None:
    x = torch.ones(1000)
    first, second = dropout.dropout(x, 0.5), dropout.dropout(x, 0.5)
    assert not torch.equal(first, second)
    Bits.seed(0)
    assert torch.equal(dropout.dropout(x, 0.5), first)
    Bits.seed(1)
    assert not torch.equal(dropout.dropout(x, 0.5), first)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_certainties_need_no_numbers(p, expected) -> None:
    assert torch.equal(dropout.dropout(torch.ones(9), p), torch.full((9,), expected))


def test_a_transposed_input_is_dropped_like_any_other() -> None:
    x = torch.arange(1.0, 13).reshape(3, 4).T.requires_grad_()
    y = dropout.dropout(x, 0.5)
    assert y.shape == (4, 3)
    assert torch.allclose(y[y != 0], 2 * x[y != 0])


def test_install_replaces_every_dropout_and_eval_mode_drops_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.3)), nn.Dropout(0.2))
    dropout.install(model)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [type(module) for module in found] == [CpuDropout, CpuDropout]
    assert [module.p for module in found] == [0.3, 0.2]
    x = torch.randn(5, 4)
    model.eval()
    assert torch.equal(model(x), model[0](x))
