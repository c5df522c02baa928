"""8-bit moments of bitsandbytes (AdamW8bit: it runs on the CPU, with the same state as the paged one)."""

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.optim import AdamW8bit
from torch import nn

from peftbench.sparsity.moments import take_moments, zero_moments

from .helpers import ALL, network, options, regression, train


def trained(shape=(16, 640), steps=3):
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape))
    optimizer = AdamW8bit([parameter], lr=1e-2, weight_decay=0.1)
    advance(optimizer, parameter, steps)
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8
    return optimizer, parameter


def advance(optimizer, parameter, steps):
    for _ in range(steps):
        parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def values(state, number):
    codes, scale = state[f"qmap{number}"], state[f"absmax{number}"]
    return functional.dequantize_blockwise(state[f"state{number}"], absmax=scale, code=codes, blocksize=256)


def test_masked_8_bit_moments_are_zero_and_the_others_untouched():
    optimizer, parameter = trained()
    pruned = torch.rand_like(parameter) < 0.5
    before = [values(optimizer.state[parameter], n) for n in (1, 2)]
    zero_moments(optimizer, parameter, pruned)
    for number, was in zip((1, 2), before, strict=True):
        now = values(optimizer.state[parameter], number)
        assert (now[pruned] == 0).all()
        assert torch.equal(now[~pruned], was[~pruned])


@pytest.mark.parametrize("dim", [0, 1])
def test_cut_8_bit_moments_are_the_kept_ones(dim):
    optimizer, parameter = trained((16, 640) if dim == 0 else (640, 16))
    keep = torch.tensor([0, 3, 4, 9, 15])
    was = [values(optimizer.state[parameter], n).index_select(dim, keep) for n in (1, 2)]
    small = nn.Parameter(parameter.detach().index_select(dim, keep))
    take_moments(optimizer, parameter, small, keep, dim)
    state = optimizer.state[small]
    assert state["step"] == 3
    for number, wanted in zip((1, 2), was, strict=True):
        torch.testing.assert_close(values(state, number), wanted, atol=0.02 * float(wanted.abs().max()), rtol=0.08)
    advance(optimizer, small, 2)
    assert torch.isfinite(small).all()
    assert state["step"] == 5


@pytest.mark.parametrize("kind", ["topk", "structured"])
def test_8_bit_training_keeps_its_zeros(kind):
    """bitsandbytes may round a zero moment to a neighbouring code on its next step: the mask undoes that every time."""
    attached = network(ranks=(16,), width=640)
    optimizer = AdamW8bit(attached.model.parameters(), lr=1e-2, weight_decay=0.1)
    hook = ALL[kind](**options(0.5, "oneshot")).hook(attached)
    parameters = attached.model[0].a, attached.model[0].b

    def each(step):
        if kind == "topk" and hook.pruned:
            for parameter, pruned in zip(hook.parameters, hook.pruned, strict=True):
                assert (parameter[pruned] == 0).all()
                assert all((values(optimizer.state[parameter], n)[pruned] == 0).all() for n in (1, 2))

    train(attached.model, regression(width=640), optimizer, hook, 8, each)
    now = attached.model[0].a, attached.model[0].b
    assert all(torch.isfinite(p).all() and optimizer.state[p]["step"] == 8 for p in now)
    left = sum(int(p.count_nonzero()) for p in now)
    assert left == sum(p.numel() for p in parameters) // 2


def test_without_state_nothing_happens():
    parameter = nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([parameter])
    zero_moments(optimizer, parameter, torch.ones(2, 3, dtype=torch.bool))
    small = nn.Parameter(torch.ones(1, 3))
    take_moments(optimizer, parameter, small, torch.tensor([0]), 0)
    assert optimizer.param_groups[0]["params"] == [small]
    assert not optimizer.state
