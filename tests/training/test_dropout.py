"""Dropout: the distribution that is asked for, and one mask for both directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.training import dropout
from peftbench.training.dropout import DECIDING, LENGTH, MOST, RESOLUTION, TAP, Bits, CpuDropout

DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    Bits.seed(0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_drops_the_share_p_and_keeps_the_mean(p, dtype) -> None:
    count = 400_000
    y = dropout.dropout(torch.ones(count, dtype=dtype), p).double()
    dropped = float((y == 0).double().mean())
    # Five standard errors of a binomial share, and half a step of the resolution.
    assert abs(dropped - p) < 5 * (p * (1 - p) / count) ** 0.5 + 2**-16
    kept = y[y != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2**-8 if dtype == torch.bfloat16 else 2**-14)


@pytest.mark.parametrize("dropped", [1, 2, 127, 128, 129, 3277, 2**14, MOST - 1, MOST])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_every_number_below_is_dropped_and_no_other(dtype, dropped) -> None:
    # As if the generator gave each number once: as bits of 16-bit floats some are tiny, infinite, or no numbers.
    drawn = torch.arange(RESOLUTION, dtype=torch.int16)
    y = dropout._kept(torch.ones(RESOLUTION, dtype=dtype), drawn, dropped)
    assert torch.equal(y != 0, drawn >= dropped)
    expected = RESOLUTION / (RESOLUTION - dropped)
    assert torch.allclose(y[dropped:], torch.full_like(y[dropped:], expected), rtol=2**-7, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_passes_where_the_value_did(dtype) -> None:
    x = (1 + torch.rand(33, 7, dtype=dtype)).requires_grad_()  # torch's normal numbers in bf16 may be exactly 0
    y = dropout.dropout(x, 0.4)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad != 0, y.detach() != 0)
    expected = (y.detach() / x.detach())[y.detach() != 0]
    assert torch.allclose(x.grad[x.grad != 0], expected, rtol=2**-6 if dtype == torch.bfloat16 else 1e-5)


def test_it_is_the_shift_register_it_is_called() -> None:
    numbers = Bits.now.tolist()
    for _ in range(2):
        Bits.step()
        for n in range(LENGTH):
            numbers.append(numbers[n] ^ numbers[n + TAP])
        del numbers[:LENGTH]
        assert Bits.now.tolist() == numbers


def test_the_bits_that_do_not_decide_stay_clear_and_all_others_are_used() -> None:
    for _ in range(3):
        Bits.step()
    numbers = Bits.now
    assert int((numbers & ~DECIDING).count_nonzero()) == 0
    # Five standard errors of a fair coin, for each of the 60.
    for bit in (bit for bit in range(64) if DECIDING >> bit & 1):
        assert abs(float((numbers >> bit & 1).double().mean()) - 0.5) < 2.5 / LENGTH**0.5


class Polynomials:
    """Polynomials over GF(2) modulo x^length + x^tap + 1, as whole numbers: bit n is the coefficient of x^n."""

    # Squaring puts a zero behind each bit: of a byte.
    SPREAD = np.array([int(f"{byte:b}", 4) for byte in range(256)], dtype="<u2")

    def __init__(self, length: int, tap: int) -> None:
        self.length, self.tap = length, tap

    def squared(self, x: int) -> int:
        spread = self.SPREAD[np.frombuffer(x.to_bytes(self.length // 8 + 1, "little"), np.uint8)]
        square = int.from_bytes(spread.tobytes(), "little")
        while high := square >> self.length:
            square ^= high << self.length ^ high << self.tap ^ high
        return square

    def has_full_period(self) -> bool:
        """Whether the powers of x are all of the field but 0, for a length that makes 2^length - 1 a prime.

        What divides x^(2^length) - x has factors whose degrees divide the length, a prime, and neither 0 nor 1 is a
        root of three terms: so it is irreducible, and the order of x, which divides a prime, is that prime.
        """
        power = 2
        for _ in range(self.length):
            power = self.squared(power)
        return power == 2


@pytest.mark.parametrize(("length", "tap", "full"), [(7, 1, True), (7, 2, False), (127, 1, True), (127, 2, False)])
def test_the_period_of_what_is_known(length: int, tap: int, full: bool) -> None:
    assert Polynomials(length, tap).has_full_period() == full


def test_its_period_is_full() -> None:
    assert Polynomials(LENGTH, TAP).has_full_period()


def test_entries_are_independent_of_their_neighbours() -> None:
    # Within a number, and from one number to others: the next, and those it is made of.
    count = 12 * LENGTH
    keep = (Bits.below(torch.Size([count]), 2**14) >= 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8, 4 * TAP, 4 * (LENGTH - TAP), 4 * LENGTH, 4 * LENGTH + 4, 8 * LENGTH):
        correlation = float((keep[lag:] * keep[:-lag]).mean() / 0.25)
        assert abs(correlation) < 5 / (count - lag) ** 0.5


def test_the_sequence_is_the_same_however_it_is_asked_for() -> None:
    whole = Bits.below(torch.Size([8 * LENGTH]), 100)
    Bits.seed(0)
    sizes = (4, 4 * TAP, 4 * LENGTH, 4 * (LENGTH - TAP) - 4)
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
