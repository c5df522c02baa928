"""What ``sparsity=contextual`` computes: the masked dense network, exactly, and the dense one when it should."""

from __future__ import annotations

import copy

import pytest
import torch
from support_ops import Ops

from peftbench.errors import UserError
from peftbench.measuring.flops import flops_per_token
from peftbench.sparsity.contextual_blocks import Attention, FeedForward
from peftbench.sparsity.contextual_hook import FRACTION
from peftbench.training import last_layer

from .contextual_nets import ARCHITECTURES, READ, batch, chosen, given, mask_base, network, options, sparse

TARGETS = ["qv", "first", "out", "all"]


def gradients(attached, inputs):
    """Outputs, and the gradient of everything: A, B, all biases, and through the word embeddings all the way to x."""
    model = attached.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.endswith("bias") or "embeddings" in name or "wte" in name)
    logits = model(**inputs).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


CASES = [*((which, "zero", "sparse") for which in TARGETS), ("qv", "mean", "sparse"), ("all", "mean", "sparse")]
CASES += [("qv", "zero", "dense"), ("first", "mean", "dense"), ("all", "mean", "dense")]
CASES += [(which, "linear", tokens) for which in TARGETS for tokens in ("sparse", "dense")]


def assert_equals_masked(architecture, which, fill, output_tokens, *, one_token=False):
    """Outputs and gradients of a sparse step are those of the dense network with the same channels masked.

    Args:
        one_token: the sparse network's last layer computes the token that is read, the masked one's computes all.
    """
    attached = network(architecture, which)
    plain = copy.deepcopy(attached)
    dense = plain.model(**batch()).logits
    if one_token:
        assert last_layer.install(attached.model)
    hook = sparse(attached, fill=fill, output_tokens=output_tokens, calibration_batches=int(fill != "zero"))
    assert {block.number for block in hook.blocks} == ({1} if one_token else {1, 2})
    logits, found = gradients(attached, batch())
    mask_base(plain, hook, READ[architecture] if output_tokens == "dense" else None)
    expected_logits, expected = gradients(plain, batch())
    assert (logits - dense).abs().max() > 0.01, "nothing was left out"
    torch.testing.assert_close(logits, expected_logits, rtol=1e-9, atol=1e-10)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        # A layer that the reference masks whole has zeros where the sliced one has no gradient at all.
        assert gradient is not None, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10, msg=lambda text: f"{name}: {text}")  # noqa: B023
    trained = [name for name in expected if "lora_" in name]
    assert trained
    assert all(expected[name].abs().max() > 0 for name in trained if "layer.0" in name)


@pytest.mark.parametrize(("which", "fill", "output_tokens"), CASES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_dense_network_with_masked_channels(architecture, which, fill, output_tokens):
    assert_equals_masked(architecture, which, fill, output_tokens)


@pytest.mark.parametrize("fill", ["mean", "linear"])
@pytest.mark.parametrize("which", TARGETS)
@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_equals_it_where_the_last_layer_computes_one_token(architecture, which, fill):
    assert_equals_masked(architecture, which, fill, "dense", one_token=True)


def test_a_layer_that_computes_one_token_is_not_sparse():
    attached = network("bert")
    last_layer.install(attached.model)
    with pytest.raises(UserError, match=r"layer 2 is the last one.*: write numbers up to 1"):
        options(layers=(1, 2)).hook(attached)
    del attached.model.get_base_model().bert.encoder.layer[1]
    with pytest.raises(UserError, match=r"no other is left: write sparsity.layers=\[0\]"):
        options().hook(attached)
    assert [block.number for block in options(layers=(0,)).hook(attached).blocks] == [0, 0]


def test_with_a_target_the_first_layer_is_no_exception():
    attached = network("bert")
    last_layer.install(attached.model)
    hook = options(ratio=0.1, calibration_batches=1).hook(attached)
    assert sorted({block.number for block in hook.blocks}) == [0, 1], "sensitivities say which are left alone"
    del attached.model.get_base_model().bert.encoder.layer[:2]
    with pytest.raises(UserError, match=r"the only layer is the last one.*: write sparsity=none"):
        options(ratio=0.1, calibration_batches=1).hook(attached)


@pytest.mark.parametrize("fill", ["mean", "linear"])
def test_measured_again_it_is_as_if_it_had_not_been_before(fill):
    attached, asked = network("bert"), {"fill": fill, "calibration_batches": 1, "ratio": 0.2}
    hook = sparse(attached, **asked, recalibrations=1)
    attached.model(**batch())  # what is kept of the first measurement is there
    with torch.no_grad():
        for _, parameter in attached.trainable():
            parameter.mul_(1.5)
    late = copy.deepcopy(network("bert"))
    late.model.load_state_dict(attached.model.state_dict())
    assert hook.again == {5}
    hook.after_step(3)
    stale = attached.model(**batch()).logits
    hook.after_step(4)
    found = attached.model(**batch()).logits
    fresh = sparse(late, **asked)
    for block, other in zip(fresh.blocks, hook.blocks, strict=True):
        block.ratio = other.ratio  # these stay
    expected = late.model(**batch()).logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(stale, found, rtol=1e-3)


def test_ratios_are_those_of_the_network_after_the_dense_start():
    attached, asked = network("bert"), {"fill": "mean", "calibration_batches": 1, "ratio": 0.3}
    hook = sparse(attached, **asked, dense_start=0.3)
    before = sparse(network("bert"), **asked).decisions()["sparsity"]["sensitivities"]
    assert not any(block.ratio for block in hook.blocks)
    with torch.no_grad():
        for _, parameter in attached.trainable():
            parameter.mul_(3)
    late = network("bert")
    late.model.load_state_dict(attached.model.state_dict())
    hook.after_step(1)
    assert not any(block.ratio for block in hook.blocks)
    hook.after_step(2)
    found, expected = (each.decisions()["sparsity"] for each in (hook, sparse(late, **asked)))
    assert found["sensitivities"] == expected["sensitivities"] != before
    assert found["ratios"] == expected["ratios"]


@pytest.mark.parametrize(
    ("dense_start", "times", "steps"), [(0.2, 3, [4, 6, 8]), (0.0, 2, [3, 6]), (0.9, 4, []), (0.2, 0, [])]
)
def test_when_it_is_measured_again(dense_start, times, steps):
    asked = {"fill": "mean", "calibration_batches": 1, "dense_start": dense_start}
    hook = sparse(network("bert"), **asked, recalibrations=times)
    assert hook.decisions()["sparsity"]["measured_again_before_steps"] == steps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_has_no_say(architecture):
    attached = network(architecture)
    hook = sparse(attached)
    logits = attached.model(**batch()).logits
    first = chosen(hook)
    padded = attached.model(**batch(padding=20)).logits
    assert all(torch.equal(a, b) for name, pair in chosen(hook).items() for a, b in zip(first[name], pair, strict=True))
    torch.testing.assert_close(padded, logits, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_choice_is_the_batchs(architecture):
    attached = network(architecture)
    hook = sparse(attached)
    attached.model(**batch())
    first = chosen(hook)
    attached.model(**{name: value[:1] for name, value in batch().items()})
    then = chosen(hook)
    assert any(not torch.equal(a, b) for name, pair in then.items() for a, b in zip(first[name], pair, strict=True))


@pytest.mark.parametrize("which", ["qv", "all"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dense_at_the_start_and_in_evaluation(architecture, which):
    attached = network(architecture, which)
    plain = copy.deepcopy(attached)
    expected = plain.model(**batch()).logits
    hook = sparse(attached, dense_start=0.25, dense_end=0.4)
    assert torch.equal(attached.model.eval()(**batch()).logits, expected)
    attached.model.train()
    for step in range(10):
        dense = torch.equal(attached.model(**batch()).logits, expected)
        assert dense == (step < 3 or step >= 6), "0.25 of ten steps are three, 0.4 are four"
        hook.before_step(step)
        hook.after_step(step)
    assert not torch.equal(attached.model(**batch()).logits, expected), "a sparse step is what FLOPs are counted of"
    assert torch.equal(attached.model.eval()(**batch()).logits, expected), "what was chosen last must not linger"
    merged, reference = (a.model.merge_and_unload() for a in (attached, plain))
    torch.testing.assert_close(merged.eval()(**batch()).logits, reference(**batch()).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saves_what_lora_saves(architecture):
    from peft import get_peft_model_state_dict

    attached = network(architecture)
    before = {name: value.clone() for name, value in get_peft_model_state_dict(attached.model).items()}
    names = list(attached.model.state_dict())
    sparse(attached)
    attached.model(**batch())
    assert list(attached.model.state_dict()) == names
    after = get_peft_model_state_dict(attached.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_the_head_reads_of_the_last_block_is_exact(architecture):
    attached = network(architecture)
    expected = attached.model(**batch()).logits
    changes = {"layers": (2,), "attention": 0, "ratio": 0.1, "calibration_batches": 1}
    for output_tokens, same in (("dense", True), ("sparse", False)):
        attached = network(architecture)
        hook = sparse(attached, output_tokens=output_tokens, **changes)
        assert torch.allclose(attached.model(**batch()).logits, expected, rtol=1e-10) == same
        assert (max(hook.sensitivities["2.ffn"].values()) < 1e-12) == same


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dense_output_tokens_count(architecture):
    attached = network(architecture)
    hook = sparse(attached, output_tokens="dense", attention=0)
    attached.model(**batch())
    for block in hook.blocks:
        # 16 of 64 hidden channels for all 36 tokens, and all of them for four tokens once more.
        assert block.skipped == 2 * 32 * (36 * (64 - 16) - 4 * 64)


def flops(attached):
    loss = lambda model, each: model(**each.inputs).logits.square().sum()  # noqa: E731
    return round(flops_per_token(attached.model, given(), loss) * given().real_tokens)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_counted_flops_drop_by_what_is_not_multiplied(architecture):
    attached = network(architecture)
    attached.model.get_base_model().set_attn_implementation("eager")
    dense = flops(attached)
    hook = sparse(attached, predictor_rank=4)
    found = flops(attached)
    tokens, sequences, length, width, heads, hidden, rank, lora = 4 * 9, 4, 9, 32, 2, 64, 4, 3
    # Two sparse layers (1 and 2), each with 16 of 64 hidden channels and 8 of 16 channels of both heads.
    linear = 2 * tokens * 2 * width * (hidden - 16) + 2 * tokens * 4 * width * (width - 16)
    # Forward and towards x; the trained branches of q and v (forward, towards A's output and for B), scores and sums.
    narrow_lora = 3 * 2 * (2 * tokens * lora * (width - 16))
    scores = 3 * 2 * (2 * sequences * heads * length * length * (16 - 8))
    means = 2 * 2 * tokens * width
    predicted = 2 * sequences * rank * (width + hidden) + 3 * 2 * sequences * rank * (width + width)
    assert dense - found == 2 * (2 * linear + narrow_lora + scores - means - predicted)
    # The frozen linear layers' own fraction, as the training's record has it.
    attached.model(**batch())
    hook.before_step(0)
    whole = 3 * 2 * tokens * (4 * width * width + 2 * width * hidden)
    assert hook.metrics() == {FRACTION: pytest.approx(1 - 2 * linear / whole, rel=1e-12)}


def test_blocks_count_what_their_layers_leave_out():
    attached = network("gpt2", "all")
    hook = sparse(attached, layers=(0, 2))
    assert [block.name for block in hook.blocks] == ["0.ffn", "0.attention", "2.ffn", "2.attention"]
    attached.model(**batch())
    for block in hook.blocks:
        assert block.skipped == 36 * block.skipped_at(block.ratio) > 0
    attached.model.eval()(**batch())
    assert not any(block.skipped for block in hook.blocks)


def test_heads_are_narrow_where_no_trained_branch_needs_them_whole():
    narrow = {}
    for which in TARGETS:
        attached = network("bert", which)
        hook = sparse(attached)
        kinds = {type(block): block for block in hook.blocks}
        narrow[which] = (kinds[Attention].narrow, kinds[FeedForward].choice.narrow)
    assert narrow == {"qv": (True, True), "first": (True, True), "out": (False, True), "all": (False, False)}


def test_recomputed_in_backward_chooses_the_same():
    attached = network("bert", "qv", torch.float64)
    plain = copy.deepcopy(attached)
    sparse(attached), sparse(plain)
    for layer in attached.model.get_base_model().base_model.encoder.layer:
        forward = layer.forward
        layer.forward = lambda *args, forward=forward, **kwargs: torch.utils.checkpoint.checkpoint(
            forward, *args, use_reentrant=False, **kwargs
        )
    (logits, found), (expected_logits, expected) = (gradients(each, batch()) for each in (attached, plain))
    assert torch.equal(logits, expected_logits)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("output_tokens", ["sparse", "dense"])
def test_what_stands_for_the_rest_is_added_by_products(output_tokens):
    attached = network("bert", dtype=torch.float32)
    asked = {"fill": "linear", "attention": 0, "layers": (1,), "calibration_batches": 1}
    hook = sparse(attached, **asked, output_tokens=output_tokens)
    hook.now.outputs = torch.zeros(4, dtype=torch.int64) if output_tokens == "dense" else None
    (block,) = hook.blocks
    x = torch.randn(4, 33, 32).to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), Ops(4 * 33) as ops:
        y = block.inner(block.activation(block.first(x)))
        y.backward(torch.randn_like(y))
    assert x.grad.abs().min() > 0
    del ops.counts["randn_like"]
    products = {"mm", "addmm", "_linear_pointwise"}
    assert set(ops.counts) <= {*products, "gelu", "gelu_backward", "new_empty_strided", "empty"}, ops.counts
    # Forward x W_I', x S' and a V on top of it; backward dy V', dh W_I and dy S on top of it.
    assert sum(ops.counts[product] for product in products) == 6
