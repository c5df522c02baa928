import copy
import itertools
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.sparsity.masking import MaskHook, smallest
from peftbench.sparsity.schedule import kept

from .helpers import MASKING, SCHEDULES, adamw, network, options, regression, train

kinds = pytest.mark.parametrize("kind", sorted(MASKING))
schedules = pytest.mark.parametrize("schedule", sorted(SCHEDULES))


def zeros_stay(optimizer, parameters, masks):
    """Whether weights and moments are exactly zero where ``masks`` say so."""
    states = [optimizer.state[p] for p in parameters]
    tensors = [(p, s["exp_avg"], s["exp_avg_sq"]) for p, s in zip(parameters, states, strict=True)]
    return all((t[mask] == 0).all() for ts, mask in zip(tensors, masks, strict=True) for t in ts)


@kinds
@settings(max_examples=4, deadline=None)
@given(ratio=st.floats(0.1, 0.95), schedule=st.sampled_from(sorted(SCHEDULES)), seed=st.integers(0, 99))
def test_pruned_entries_are_exactly_zero_through_100_adamw_steps(kind, ratio, schedule, seed):
    attached = network(seed)
    optimizer, hook = adamw(attached), MASKING[kind](**options(ratio, schedule)).hook(attached)
    history = []

    def each(step):
        if hook.pruned:
            assert zeros_stay(optimizer, hook.parameters, hook.pruned)
            history.append([mask.clone() for mask in hook.pruned])
        assert hook.selectable(step) == (step >= hook.plan.final)

    train(attached.model, regression(seed), optimizer, hook, 100, each)
    for earlier, later in itertools.pairwise(history):
        assert all((~old | new).all() for old, new in zip(earlier, later, strict=True)), "a pruned entry came back"
    masks, parameters = hook.pruned, hook.parameters
    assert sum(int((~mask).sum()) for mask in masks) == pytest.approx(
        (1 - ratio) * sum(p.numel() for p in parameters), abs=2
    )
    if kind != "global":
        assert [int((~mask).sum()) for mask in masks] == [kept(p.numel(), ratio) for p in parameters]
        assert [int(p.count_nonzero()) for p in parameters] == [kept(p.numel(), ratio) for p in parameters]
    assert len(history[0]) == 4
    assert all(torch.equal(a, b) for a, b in zip(history[-1], history[hook.plan.final - 100], strict=True)), "tail"


@pytest.mark.parametrize("broken", ["nothing", "weights", "moments", "mask"])
def test_the_check_above_notices_each_way_of_doing_it_wrong(broken, monkeypatch):
    attached = network()
    optimizer, hook = adamw(attached), MASKING["topk"](**options(0.5, "oneshot")).hook(attached)
    if broken == "weights":  # what the project's predecessor did: zeroed once, then trained densely again
        monkeypatch.setattr(MaskHook, "before_step", lambda self, step: None)
        monkeypatch.setattr(MaskHook, "after_step", super(MaskHook, hook).after_step.__func__)
    if broken == "moments":
        monkeypatch.setattr("peftbench.sparsity.masking.zero_moments", lambda *arguments: None)
    masks, seen = [], []

    def each(step):
        if hook.pruned:
            masks.append(list(hook.pruned))
            seen.append(zeros_stay(optimizer, hook.parameters, masks[0]))
        if broken == "mask":  # not persistent: another one at every step
            hook.pruned = [mask.roll(1) for mask in hook.pruned]

    train(attached.model, regression(), optimizer, hook, 20, each)
    assert len(seen) == 11
    assert all(seen) == (broken == "nothing")


@kinds
@schedules
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_trainings_reach_the_target(kind, schedule, steps):
    attached = network()
    hook, selectable = MASKING[kind](**options(0.5, schedule)).hook(attached), []
    train(
        attached.model,
        regression(),
        adamw(attached),
        hook,
        steps,
        lambda step: selectable.append(hook.selectable(step)),
    )
    assert selectable[-1]
    total = sum(p.numel() for p in hook.parameters)
    # On the first step A has no gradient (B is zero), so nothing that survives can be zero but by the mask.
    assert sum(int(p.count_nonzero()) for p in hook.parameters) == kept(total, 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@kinds
def test_other_precisions(kind, dtype):
    attached = network(dtype=dtype)
    optimizer, hook = adamw(attached), MASKING[kind](**options(0.6)).hook(attached)
    train(attached.model, regression(dtype=dtype), optimizer, hook, 30)
    assert zeros_stay(optimizer, hook.parameters, hook.pruned)
    sizes = [p.numel() for p in hook.parameters]
    gone = [int(mask.sum()) for mask in hook.pruned]
    assert sum(gone) == pytest.approx(0.6 * sum(sizes), abs=2)
    assert all(p.dtype == dtype for p in hook.parameters)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0, 1))
def test_exactly_k_are_kept_whatever_the_ties(values, ratio):
    scores = torch.tensor(values, dtype=torch.float32)
    (gone,) = smallest([scores], ratio)
    assert int((~gone).sum()) == kept(len(values), ratio)
    assert gone.all() or not gone.any() or scores[gone].max() <= scores[~gone].min()
    assert torch.equal(gone, smallest([scores], ratio)[0])
    tied = scores == scores[~gone].min() if not gone.all() else torch.zeros_like(gone)
    assert torch.equal(gone[tied], gone[tied].sort(descending=True).values), "of equal entries the first go first"


def test_a_global_threshold_compares_tensors():
    small, large = torch.rand(4, 5), 2 + torch.rand(3, 4)
    gone = smallest([small, large], 20 / 32)
    assert gone[0].all()
    assert not gone[1].any()
    assert not smallest([small], 0.5)[0].all()


def test_an_emptied_tensor_is_said(caplog):
    attached = network()
    attached.model[0].b.data.fill_(0)
    hook = MASKING["global"](**options(0.9, "oneshot")).hook(attached)
    hook.start(torch.optim.SGD(attached.model.parameters(), lr=0.0), 1)
    with caplog.at_level(logging.WARNING):
        hook.after_step(0)
    assert "factor matrices have no entry left" in caplog.text


def test_what_is_pruned_stays_pruned_also_when_survivors_are_zero():
    attached = network(b_zero=False)
    hook = MASKING["topk"](**options(0.75, "oneshot")).hook(attached)
    hook.start(adamw(attached), 8)
    hook.prune(0.5)
    before = [mask.clone() for mask in hook.pruned]
    for p in hook.parameters:
        p.data.zero_()  # now all magnitudes are equal
    hook.prune(0.75)
    assert all((~old | new).all() for old, new in zip(before, hook.pruned, strict=True))


def test_masked_gradients_do_not_count_in_clipping():
    attached = network(b_zero=False)
    hook = MASKING["topk"](**options(0.5, "oneshot")).hook(attached)
    hook.start(adamw(attached), 1)
    hook.after_step(0)
    for p in hook.parameters:
        p.grad = torch.ones_like(p)
    hook.parameters[0].grad = None
    hook.before_step(1)
    assert all(torch.equal(p.grad == 0, mask) for p, mask in list(zip(hook.parameters, hook.pruned, strict=True))[1:])


def test_a_shared_matrix_is_pruned_once():
    attached = network(ranks=(6, 6))
    attached.model[1].a = attached.model[0].a
    hook = MASKING["topk"](**options(0.5, "oneshot")).hook(attached)
    train(attached.model, regression(), adamw(attached), hook, 6)
    assert len(hook.parameters) == 3
    assert int(attached.model[0].a.count_nonzero()) == kept(attached.model[0].a.numel(), 0.5)


def test_the_l1_penalty_is_the_norm_and_ends_with_the_last_threshold():
    attached = network(b_zero=False)
    hook = MASKING["l1"](**options(0.5, "oneshot")).hook(attached)
    hook.start(adamw(attached), 4)
    penalty = hook.penalty()
    assert penalty.item() == pytest.approx(1e-3 * sum(p.abs().sum().item() for p in attached.model.parameters()))
    penalty.backward()
    assert torch.allclose(attached.model[0].b.grad, 1e-3 * attached.model[0].b.detach().sign())
    hook.after_step(0)
    assert hook.penalty() is not None
    hook.after_step(1)
    assert hook.penalty() is None


def test_the_penalty_of_half_precision_is_summed_in_float32():
    attached = network(dtype=torch.bfloat16)
    hook = MASKING["l1"](**options()).hook(attached)
    hook.start(adamw(attached), 4)
    assert hook.penalty().dtype == torch.float32


def test_l1_drives_weights_towards_zero_before_the_threshold():
    norms = {}
    for kind in ("topk", "l1"):
        attached, at = network(dtype=torch.float64), {}
        hook = MASKING[kind](**options(0.5, "oneshot", start=0.9)).hook(attached)
        hook.strength = 0.05

        def each(step, model=attached.model, at=at):
            at[step] = sum(p.abs().sum().item() for p in model.parameters())

        train(attached.model, regression(dtype=torch.float64), adamw(attached), hook, 40, each)
        norms[kind] = at[34]
    assert norms["l1"] < 0.9 * norms["topk"]


def test_two_trainings_are_equal():
    def once():
        attached = network()
        train(attached.model, regression(), adamw(attached), MASKING["magnitude"](**options()).hook(attached), 20)
        return copy.deepcopy(attached.model.state_dict())

    first, second = once(), once()
    assert all(torch.equal(first[name], second[name]) for name in first)
