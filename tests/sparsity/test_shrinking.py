import copy

import pytest
import torch
from torch import nn

from peftbench.sparsity.shrinking import strongest

from .helpers import ALL, SCHEDULES, adamw, network, options, regression, train

structured = ALL["structured"]
schedules = pytest.mark.parametrize("schedule", sorted(SCHEDULES))


def masked_twin(attached, optimizer, kept):
    """The dense network with the same components zeroed in weights, moments and (by hook) gradients."""
    for factor, keep in zip(attached.factors, kept, strict=True):
        gone = [i for i in range(factor.a.shape[0]) if i not in keep]
        factor.a.data[gone], factor.b.data[:, gone] = 0, 0
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            optimizer.state[factor.a][key][gone] = 0
            optimizer.state[factor.b][key][:, gone] = 0


def step(model, loss, optimizer):
    loss(model).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def test_shrinking_is_masking_in_outputs_and_in_everything_that_follows():
    dense = network(dtype=torch.float64)
    optimizer, loss = adamw(dense, amsgrad=True), regression(dtype=torch.float64)
    for _ in range(5):
        step(dense.model, loss, optimizer)
    shrunk = network(dtype=torch.float64)
    shrunk.model.load_state_dict(dense.model.state_dict())
    shrunk_optimizer = adamw(shrunk, amsgrad=True)
    shrunk_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    kept = [strongest(f.a.detach(), f.b.detach(), f.a.shape[0] // 2).tolist() for f in dense.factors]
    hook = structured(**options(0.5, "oneshot")).hook(shrunk)
    hook.start(shrunk_optimizer, 1)
    hook.after_step(0)
    masked_twin(dense, optimizer, kept)

    x = torch.randn(7, 12, dtype=torch.float64)
    torch.testing.assert_close(shrunk.model(x), dense.model(x))
    loss, again = regression(5, dtype=torch.float64), regression(5, dtype=torch.float64)
    for _ in range(40):
        # A component with A_i = 0 and B_:i = 0 has no gradient: the dense twin needs no mask to stay masked.
        step(dense.model, loss, optimizer)
        step(shrunk.model, again, shrunk_optimizer)
    torch.testing.assert_close(shrunk.model(x), dense.model(x))
    for small, large, keep in zip(shrunk.factors, dense.factors, kept, strict=True):
        torch.testing.assert_close(small.a, large.a[keep])
        torch.testing.assert_close(small.b, large.b[:, keep])
        assert large.a.norm(dim=1).count_nonzero() == len(keep)


def test_moments_and_parameter_groups_follow():
    attached = network()
    optimizer, loss = adamw(attached, amsgrad=True), regression()
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))], "lr": 1.0})
    for _ in range(3):
        step(attached.model, loss, optimizer)
    olds = [(f.a, f.b) for f in attached.factors]
    states = [[{k: v.clone() for k, v in optimizer.state[p].items()} for p in pair] for pair in olds]
    kept = [strongest(a.detach(), b.detach(), a.shape[0] // 2) for a, b in olds]
    hook = structured(**options(0.5, "oneshot")).hook(attached)
    hook.start(optimizer, 1)
    hook.after_step(0)

    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in attached.model.parameters()]
    assert len(optimizer.param_groups[1]["params"]) == 1
    for factor, old, state, keep in zip(attached.factors, olds, states, kept, strict=True):
        for new, before, was, dim in zip((factor.a, factor.b), old, state, (0, 1), strict=True):
            assert before not in optimizer.state
            now = optimizer.state[new]
            assert torch.equal(now["step"], was["step"])
            for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                assert torch.equal(now[key], was[key].index_select(dim, keep))
            assert new.is_leaf
            assert new.requires_grad
    assert sum(s["exp_avg"].numel() for s in optimizer.state.values()) == sum(
        p.numel() for p in attached.model.parameters()
    )


def test_components_are_scored_by_what_they_add():
    a = torch.tensor([4.0, 3.0, 1.0, 2.0])[:, None] * torch.ones(4, 3)
    b = torch.tensor([0.1, 3.0, 4.0, 2.5]) * torch.ones(5, 4)
    assert strongest(a, b, 2).tolist() == [1, 3]  # 9 and 5, though A alone says 0, 1 and B alone 1, 2
    assert strongest(torch.ones(4, 2), torch.ones(3, 4), 2).tolist() == [0, 1]
    assert strongest(torch.ones(4, 2), torch.zeros(3, 4), 1).tolist() == [0]


@schedules
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_ranks_fall_in_stages_to_the_target(schedule, steps):
    attached = network(ranks=(8, 6))
    hook, ranks, selectable = structured(**options(0.5, schedule)).hook(attached), [], []

    def each(step):
        ranks.append([f.a.shape[0] for f in attached.factors])
        selectable.append(hook.selectable(step))

    train(attached.model, regression(), adamw(attached), hook, steps, each)
    firsts = [rank for rank, _ in ranks]
    assert firsts == sorted(firsts, reverse=True)
    assert ranks[-1] == [4, 3]
    assert [rank == [4, 3] for rank in ranks] == selectable or schedule == "gradual"
    assert all(rank == [4, 3] for rank, chosen in zip(ranks, selectable, strict=True) if chosen)
    assert selectable[-1]
    if steps == 40 and schedule == "gradual":
        assert len(set(firsts)) > 2
    assert attached.model[0].b.shape == (12, 4)


@pytest.mark.parametrize("ratio", [0.5, 0.99])
def test_one_component_always_stays(ratio):
    attached = network(ranks=(1, 2))
    hook = structured(**options(ratio, "oneshot")).hook(attached)
    train(attached.model, regression(), adamw(attached), hook, 4)
    assert [f.a.shape[0] for f in attached.factors] == [1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    attached = network(dtype=dtype)
    hook = structured(**options(0.5)).hook(attached)
    train(attached.model, regression(dtype=dtype), adamw(attached, fused=True), hook, 20)
    assert [f.a.shape[0] for f in attached.factors] == [4, 3]
    assert all(f.a.dtype == f.b.dtype == dtype for f in attached.factors)


def test_a_factor_that_is_not_trained_is_a_bug():
    attached = network()
    hook = structured(**options(0.5, "oneshot")).hook(attached)
    hook.start(torch.optim.AdamW([nn.Parameter(torch.zeros(1))]), 1)
    with pytest.raises(RuntimeError, match="not in the optimizer"):
        hook.after_step(0)
