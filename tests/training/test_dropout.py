"""Dropout: the distribution that is asked for, and one mask for both directions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftbench.training import dropout
from peftbench.training.dropout import LANES, SHIFTS, Bits, CpuDropout

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
ONES = 2**64 - 1
FACTORS = (3, 5, 17, 257, 641, 65537, 6700417)
"""Of 2^64 - 1."""


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


def following(x: int) -> int:
    """The number of a lane after ``x``, as Marsaglia wrote it."""
    first, right, last = SHIFTS
    x ^= x << first & ONES
    x ^= x >> right
    return x ^ (x << last & ONES)


def applied(matrix: list[int], x: int) -> int:
    """matrix @ x over GF(2): its columns, and x, as 64 bits."""
    found = 0
    for bit, column in enumerate(matrix):
        found ^= column if x >> bit & 1 else 0
    return found


def power(matrix: list[int], exponent: int) -> list[int]:
    """By repeated squaring, over GF(2)."""
    found = [1 << bit for bit in range(64)]
    while exponent:
        if exponent & 1:
            found = [applied(matrix, column) for column in found]
        matrix = [applied(matrix, column) for column in matrix]
        exponent >>= 1
    return found


def rank(rows: list[int]) -> int:
    """Over GF(2)."""
    pivots: dict[int, int] = {}
    for row in rows:
        while row and row.bit_length() in pivots:
            row ^= pivots[row.bit_length()]
        if row:
            pivots[row.bit_length()] = row
    return len(pivots)


def test_every_lane_is_the_generator_it_is_called() -> None:
    start = [number & ONES for number in Bits.state[:50].tolist()]
    for _ in range(3):
        Bits.step()
        start = [following(number) for number in start]
    assert [number & ONES for number in Bits.state[:50].tolist()] == start
    assert len(Bits.state.unique()) == LANES


def test_its_period_is_full() -> None:
    matrix = [following(1 << bit) for bit in range(64)]
    identity = [1 << bit for bit in range(64)]
    assert power(matrix, ONES) == identity
    assert all(power(matrix, ONES // factor) != identity for factor in FACTORS)


def test_any_two_decisions_of_a_lane_are_independent() -> None:
    # Each of a decision's 15 bits is a linear function of the lane's start, which is uniform: 30 independent functions
    # are 30 independent bits.
    images = [1 << bit for bit in range(64)]
    numbers: list[list[int]] = []
    for _ in range(64):
        numbers.append([sum((image >> bit & 1) << i for i, image in enumerate(images)) for bit in range(64)])
        images = [following(image) for image in images]
    quarters = range(0, 64, 16)
    for later, number in enumerate(numbers):
        for one in quarters:
            for other in quarters if later else range(one + 16, 64, 16):
                assert rank(numbers[0][one : one + 15] + number[other : other + 15]) == 30


def test_entries_are_independent_of_their_neighbours() -> None:
    # Within a number, between lanes, and from one number of a lane to the next.
    count = 12 * LANES
    keep = (Bits.keep(torch.Size([count]), 2**14) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8, 4 * LANES, 4 * LANES + 4, 8 * LANES):
        correlation = float((keep[lag:] * keep[:-lag]).mean() / 0.25)
        assert abs(correlation) < 5 / (count - lag) ** 0.5


def test_the_sequence_is_the_same_however_it_is_asked_for() -> None:
    whole = Bits.below(torch.Size([6 * LANES]), 100)
    Bits.seed(0)
    sizes = (4, LANES, 4 * LANES, LANES - 4)
    assert torch.equal(torch.cat([Bits.below(torch.Size([size]), 100) for size in sizes]), whole)


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
