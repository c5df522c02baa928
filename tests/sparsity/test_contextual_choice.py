"""Predictors, channels and calibration against full decompositions and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.errors import Skip, UserError
from peftbench.methods.base import Attached
from peftbench.sparsity import contextual_calibration as calibration
from peftbench.sparsity import contextual_predictor as predictor
from peftbench.sparsity.contextual_linear import base_linear
from peftbench.tasks.base import Batch
from peftbench.tasks.language_modeling import IGNORED

from .contextual_nets import ARCHITECTURES, batch, given, network, options, sparse


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (12, 12)])
@pytest.mark.parametrize("rank", [1, 4, 50])
def test_the_svd_is_the_best_of_its_rank(shape, rank):
    weight = seeded(*shape)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    left, right = predictor.truncated_svd(weight, rank)
    torch.testing.assert_close((left @ right.T).double(), best, rtol=1e-4, atol=1e-5)


def test_predicts_what_the_approximations_give():
    weights, biases = [seeded(20, 12, seed=i) for i in range(3)], [seeded(20, seed=9), None, seeded(20, seed=8)]
    means = seeded(5, 12, seed=7).float()
    found = predictor.Predictor.of(weights, biases, 4)(means)
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        left, right = predictor.truncated_svd(weight, 4)
        expected = means @ right @ left.T + (0 if bias is None else bias.float())
        torch.testing.assert_close(found[index], expected)


def test_means_leave_padding_out():
    x, mask = seeded(3, 6, 4).float(), torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0], [0] * 6])
    means = predictor.sequence_means(x, predictor.token_weights(mask))
    torch.testing.assert_close(means, torch.stack([x[0].mean(0), x[1, :2].mean(0), torch.zeros(4)]))
    torch.testing.assert_close(predictor.sequence_means(x, None), x.mean(1))


def test_attention_channels_by_brute_force():
    q, k, v = predicted = seeded(3, 5, 24)
    scores, values = predictor.attention_channels(predicted, heads=3, count=2)
    for found, score in ((scores, q.norm(dim=0) * k.norm(dim=0)), (values, v.norm(dim=0))):
        for head in range(3):
            within = range(8 * head, 8 * head + 8)
            best = max(itertools.combinations(within, 2), key=lambda pair: float(score[list(pair)].sum()))
            assert sorted(found.view(3, 2)[head].tolist()) == list(best)


@pytest.mark.parametrize(
    ("width", "ratio", "count"),
    [(1536, 0.9, 152), (32, 0.5, 16), (64, 0.99, 8), (16, 0.5, 8), (10, 0.999, 1), (40, 0.01, 40)],
)
def test_kept_channels_come_in_eights_where_there_are_many(width, ratio, count):
    assert predictor.channels_kept(width, ratio) == count


def test_a_menu_doubles_what_is_kept():
    assert calibration.menu(0.9) == [0.9, 0.8, 0.6, 0.2]
    assert calibration.menu(0.98) == [0.98, 0.96, 0.92, 0.84, 0.68], "and no more"
    assert calibration.menu(0.5) == [0.5]


@pytest.mark.parametrize("target", [0.1, 0.25, 0.42, 0.6])
def test_ratios_are_the_best_of_all_there_are(target):
    random = torch.Generator().manual_seed(3)
    names, ratios = ["a", "b", "c", "d"], [0.9, 0.8, 0.6]
    savings = {
        name: {ratio: ratio * size for ratio in ratios} for name, size in zip(names, (0.2, 0.2, 0.2, 0.1), strict=True)
    }
    costs = {name: {ratio: float(torch.rand(1, generator=random)) for ratio in ratios} for name in names}
    found = calibration.divide(target, savings, costs)

    def figures(chosen):
        used = [(name, ratio) for name, ratio in zip(names, chosen, strict=True) if ratio]
        return sum(savings[n][r] for n, r in used), sum(costs[n][r] for n, r in used)

    reaching = [chosen for chosen in itertools.product([0, *ratios], repeat=4) if figures(chosen)[0] >= target - 1e-9]
    assert figures(tuple(found[name] for name in names)) == min(
        (figures(chosen) for chosen in reaching), key=lambda f: f[1]
    )


def test_out_of_reach_is_said_before_anything_is_measured():
    hook = options(ratio=0.9, calibration_batches=1).hook(network("bert"))
    with pytest.raises(UserError, match=r"sparsity.ratio=0.9 is out of reach: .* at most 0.\d+ can be left out; write"):
        hook.prepare(iter([]), lambda given: pytest.fail("measured"))


def test_sensitivities_are_those_of_one_block_alone():
    attached = network("bert")
    hook = options(ratio=0.3, calibration_batches=2, predictor_rank=4).hook(attached)
    hook.prepare(itertools.repeat(given()), lambda each: attached.model(**each.inputs).logits.sum())
    hook.calibrate()
    decided = hook.decisions()["sparsity"]
    assert 0.3 <= decided["left_out_of_a_sparse_step"] < 0.5
    assert {name: sorted(row) for name, row in decided["sensitivities"].items()} == {
        name: ["0.5"] if "attention" in name else ["0.5", "0.75"] for name in decided["ratios"]
    }
    hidden = []  # of the token that is read
    alone = network("bert")
    few = {name: value[: calibration.TRIED] for name, value in batch().items()}
    base = alone.model.get_base_model().base_model
    base.register_forward_hook(lambda module, args, output: hidden.append(output[0][:, 0]))
    alone.model(**few)
    assert [block.name for block in sparse(alone, layers=(2,), attention=0, predictor_rank=4).blocks] == ["2.ffn"]
    alone.model(**few)
    expected = ((hidden[-1] - hidden[0]).square().sum() / hidden[0].square().sum()).item()
    assert decided["sensitivities"]["2.ffn"]["0.75"] == pytest.approx(expected, rel=1e-5)
    assert torch.equal(attached.model(**batch()).logits, network("bert").model(**batch()).logits), "dense again"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_before_a_block_are_not_computed_again_for_it(architecture):
    attached = network(architecture)
    hook = options(ratio=0.3, fill="mean", calibration_batches=1, predictor_rank=4).hook(attached)
    hook.prepare(itertools.repeat(given()), lambda each: attached.model(**each.inputs).logits.sum())
    calls = dict.fromkeys(range(len(hook.layers)), 0)
    for number, layer in enumerate(hook.layers):
        norm = next(module for module in layer.modules() if isinstance(module, nn.LayerNorm))
        norm.register_forward_hook(lambda *_, number=number: calls.update({number: calls[number] + 1}))
    drawn = torch.get_rng_state()
    hook.calibrate()
    assert torch.equal(torch.get_rng_state(), drawn), "training draws what it would have drawn"
    tried = [sum(len(menu) for block, menu in hook.menus.items() if block.number <= number) for number in calls]
    assert list(calls.values()) == [2 + count for count in tried], "twice dense, for stand-ins and for comparing"
    assert not any("forward" in vars(layer) for layer in hook.layers)


def test_a_few_windows_keep_what_they_predict():
    labels = torch.where(seeded(16, 12) < 0, torch.arange(192).reshape(16, 12), IGNORED)
    inputs = {name: torch.ones(16, 12, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    positions = (labels.flatten() != IGNORED).nonzero().squeeze(1)
    few = calibration.few_items(Batch(inputs, labels, np.arange(16), 192, positions), 5)
    assert torch.equal(few.labels.flatten()[few.positions], labels[:5][labels[:5] != IGNORED])
    assert (few.real_tokens, len(few.rows), few.inputs["input_ids"].shape) == (60, 5, (5, 12))


def test_output_tokens_are_those_of_classifiers():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=20, n_positions=8))
    with pytest.raises(UserError, match=r"for classifiers.*: write sparsity.output_tokens=sparse"):
        options(output_tokens="dense").hook(Attached(model))
    assert options().hook(Attached(model)).blocks


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2"])
def test_moments_are_those_of_real_tokens(architecture):
    attached, seen = network(architecture), {}
    hook = sparse(attached, fill="mean", calibration_batches=2)
    for block in hook.blocks:
        keep = lambda module, args, name=block.name: seen.__setitem__(name, args[0])  # noqa: E731
        block.inner.register_forward_pre_hook(keep)
    attached.model.eval()(**batch())
    for block in hook.blocks:
        tokens = seen[block.name][batch()["attention_mask"].bool()].float()
        torch.testing.assert_close(block.moments.mean, tokens.mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(block.moments.variance, tokens.var(dim=0, correction=0), rtol=1e-3, atol=1e-4)
        # One channel after the other put into the layer: how far its answer moves.
        each = torch.eye(len(block.moments.mean), dtype=torch.float64)
        moved = base_linear(block.inner)(each) - base_linear(block.inner)(torch.zeros_like(each))
        torch.testing.assert_close(block.moments.reach.double(), moved.square().sum(dim=1), rtol=1e-4, atol=1e-6)


def test_distance_is_the_expected_change_of_the_output():
    # Two sequences whose tokens lie around their means: over all tokens, how far the next layer's answer moves.
    means, noise, m = seeded(2, 6), seeded(2, 1000, 6, seed=1), seeded(6, seed=2)
    noise = (noise - noise.mean(dim=1, keepdim=True)) * torch.tensor([0.1, 3, 0.1, 1, 2, 0.5])
    weight, h = seeded(4, 6, seed=3), means[:, None] + noise
    change = (h - m)[..., None, :] * weight  # of each output by each channel
    moments = predictor.Moments(m, noise.square().mean(dim=(0, 1)), weight.square().sum(dim=0))
    expected = change.square().sum(dim=-2).mean(dim=(0, 1))
    torch.testing.assert_close(predictor.distance(means, m[None], moments), expected)
    torch.testing.assert_close(predictor.importance(means), means.square().sum(dim=0).sqrt())


@pytest.mark.parametrize("fill", ["zero", "mean", "linear"])
def test_hidden_channels_that_are_left_out_are_those_of_least_importance(fill):
    """By hand, channel by channel, for a block whose input and predicted activations are known."""
    attached = network("bert")
    hook = sparse(attached, fill=fill, attention=0, layers=(1,), calibration_batches=int(fill != "zero"))
    (block,) = hook.blocks
    x = seeded(3, 5, 32).float()
    hook.now.weights = None
    block._enter(x)
    means = x.mean(dim=1)
    first = block.layer.intermediate.dense
    u, s, v = torch.linalg.svd(first.weight.float())
    low = (u[:, :8] * s[:8]) @ v[:8]
    activations = torch.nn.functional.gelu(means @ low.T + first.bias.float())
    if fill == "zero":
        lost = activations.square().sum(dim=0)
    else:
        stand_in = block.moments.mean.expand(3, -1)
        if fill == "linear":
            stand_in = stand_in + (means - block.moments.input_mean) @ block.moments.slope
        columns = block.layer.output.dense.weight.float().square().sum(dim=0)
        lost = columns * ((activations - stand_in).square().mean(dim=0) + block.moments.variance)
    assert sorted(block.choice.index.tolist()) == sorted(lost.topk(16).indices.tolist())


def test_stand_ins_are_the_least_squares_prediction():
    random = torch.Generator().manual_seed(5)
    x = torch.randn(400, 6, generator=random) * torch.tensor([1, 2, 0.5, 1, 3, 1]) + 2
    h = torch.relu(x @ torch.randn(6, 9, generator=random)) + torch.randn(400, 9, generator=random)
    sums = calibration.Sums(linear=True)
    for part in (slice(0, 150), slice(150, 400)):
        sums.add(h[part], x[part])
    found = sums.moments(torch.ones(1, 9))
    # Ridge regression by augmented rows: sqrt(400 lambda) I beside zeros.
    centred, ridge = x - x.mean(0), calibration.RIDGE * x.var(dim=0, correction=0).mean()
    rows = torch.cat([centred, (400 * ridge).sqrt() * torch.eye(6)]).double()
    targets = torch.cat([h - h.mean(0), torch.zeros(6, 9)]).double()
    expected = torch.linalg.lstsq(rows, targets).solution
    torch.testing.assert_close(found.slope.double(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.stand_in(x), h.mean(0) + centred @ found.slope, rtol=1e-4, atol=1e-4)
    residuals = (h - found.stand_in(x)).square().mean(dim=0)
    torch.testing.assert_close(found.variance, residuals, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("layers", "said"), [((0, 7), "there is no layer 7, they are 0 to 2"), ((3,), "there is no layer 3")]
)
def test_layers_that_are_not_there(layers, said):
    with pytest.raises(UserError, match=said):
        sparse(network("bert"), layers=layers)


def test_unknown_architectures_are_skipped_with_a_reason():
    with pytest.raises(Skip, match=r"knows the blocks of bert, .*gpt2, not of Linear: write sparsity=none"):
        options().hook(Attached(torch.nn.Linear(2, 2)))
