"""Any PEFT tuner by name: errors before training, ranks and alphas, and AdaLoRA's moving budget."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file

from peftbench.errors import UserError
from peftbench.methods.frozen import hold_in

from . import bases
from .bases import Base


def test_a_wrong_class_lists_those_that_exist(base: Base):
    with pytest.raises(UserError, match=r"DoraConfig is not in PEFT; write one of .*LoHaConfig, .*VeraConfig"):
        base.attach(bases.method("peft", config_class="DoraConfig"))


def test_a_wrong_argument_lists_those_that_exist(base: Base):
    with pytest.raises(UserError, match=r"LoHaConfig has no rank; it has .*rank_dropout"):
        base.attach(bases.method("peft", args={"rank": 3}))
    with pytest.raises(UserError, match="leave out r, which"):
        base.attach(bases.method("peft", args={"r": 3}))
    with pytest.raises(UserError, match="leave out total_step"):
        base.attach(bases.method("adalora", args={"total_step": 3}))
    with pytest.raises(UserError, match="refuses them"):
        base.attach(bases.method("ia3", args={"feedforward_modules": ["lin2"]}))
    with pytest.raises(UserError, match="cannot be attached"):
        base.attach(bases.method("shira"), bases.run(value=100))


def test_a_new_tuner_needs_no_code(base: Base):
    method = bases.method("peft", config_class="MissConfig", args={"init_weights": True}, alpha_arg=None)
    attached = base.attach(method, bases.run(value=8))
    assert attached.model.peft_config["default"].r == 8
    losses = bases.train(attached)
    assert losses[-1] < losses[0]
    norms = bases.method(
        "peft", config_class="LNTuningConfig", targets=["sa_layer_norm"], rank_args=None, alpha_arg=None
    )
    assert not norms.uses_rank
    assert all("sa_layer_norm" in name for name in base.attach(norms).adapter_state())


def test_rank_and_alpha_reach_the_tuner(base: Base):
    config = base.attach(bases.method("adalora"), bases.run(value=6)).model.peft_config["default"]
    assert (config.target_r, config.init_r, config.lora_alpha) == (6, 9, 9.0)
    assert base.attach(bases.method("dora")).model.peft_config["default"].use_dora


@pytest.mark.parametrize("ratio", [0, -1, 1e30, float("inf"), float("nan")])
def test_a_multiple_of_the_rank_that_is_none_is_refused(ratio: float):
    with pytest.raises(ValidationError, match=r"rank_args\.r\n"):
        bases.method("vera", rank_args={"r": ratio})


def test_a_rank_that_its_multiple_rounds_to_nothing_is_a_conflict():
    """It was rank 1, under the label of another."""
    method = bases.method("vera", rank_args={"r": 0.125})
    assert method.conflict(bases.run(value=8)) is None
    assert method.conflict(bases.run(value=4)) == (
        "method.rank_args.r makes r=0 of rank 4: write method.rank_args.r=1, or a larger rank"
    )


def test_what_a_tuner_would_ignore_is_a_conflict():
    assert "rank.pattern" in bases.method("dora").conflict(bases.run(pattern={"q_lin": 2}))
    assert "no alpha" in bases.method("vera").conflict(bases.run(alpha=16.0, alpha_ratio=None))
    assert bases.method("dora").conflict(bases.run(alpha=16.0, alpha_ratio=None)) is None
    assert "sparsity=none" in bases.method("dora").conflict(bases.run(sparse=True))


@pytest.mark.parametrize(
    "fields",
    [
        {"config_class": "LoraConfig", "alpha_arg": "lora_alpha", "args": {"lora_bias": True}},
        {"config_class": "BeftConfig", "alpha_arg": None, "rank_args": None},
    ],
)
def test_a_bias_that_the_base_has_no_place_for_is_not_merged(base: Base, fields: dict):
    """PEFT says so at the layer that has none, after it has merged others."""
    loaded = base.load()
    loaded.model.distilbert.transformer.layer[1].attention.v_lin.bias = None
    method = bases.method("peft", **fields)
    attached = method.attach(loaded, bases.run())
    bases.train(attached, steps=1)
    assert method.merge(attached) is None


def test_memory_that_runs_out_is_not_taken_for_what_cannot_be_merged(base: Base, monkeypatch):
    method = bases.method("dora")
    attached = base.attach(method)
    monkeypatch.setattr(attached.model.base_model, "merge_and_unload", lambda: torch.empty(2**60))
    with pytest.raises(RuntimeError, match="allocate"):
        method.merge(attached)


def steps(attached, hook, count: int) -> list[bool]:
    """The training loop's calls in its order; returns which steps may be selected."""
    optimizer = torch.optim.AdamW([p for _, p in attached.trainable()], lr=0.01)
    hook.start(optimizer, count)
    attached.model.train()
    selectable = []
    for step in range(count):
        penalty = hook.penalty()
        (bases.loss(attached.model) + (0 if penalty is None else penalty)).backward()
        hook.before_step(step)
        optimizer.step()
        hook.after_step(step)
        optimizer.zero_grad(set_to_none=True)
        selectable.append(hook.selectable(step))
    attached.model.eval()
    return selectable


def values_left(attached) -> int:
    return sum(int((p != 0).sum()) for name, p in attached.trainable() if "lora_E" in name)


def test_adalora_reaches_its_budget_and_saves_what_was_evaluated(base: Base, tmp_path):
    method = bases.method("adalora")
    attached = base.attach(method)
    selectable = steps(attached, method.hook(attached), 20)
    assert selectable == [False] * 11 + [True] * 9
    assert values_left(attached) == 4 * 4, "rank=4 on average over four layers, of 6 in the beginning"
    expected = bases.logits(attached.model)
    method.save(attached, tmp_path)
    fresh = base.attach(method)
    method.restore(fresh, tmp_path)
    torch.testing.assert_close(bases.logits(fresh.model), expected, rtol=1e-5, atol=1e-5)
    assert values_left(fresh) == 16
    network = base.load().model
    network.load_state_dict(load_file(tmp_path / "head.safetensors"), strict=False)
    theirs = PeftModel.from_pretrained(network, tmp_path).eval()
    torch.testing.assert_close(bases.logits(theirs), expected, rtol=1e-5, atol=1e-5)


def test_adalora_is_put_back_as_it_was_saved_on_a_base_in_bf16(base: Base, tmp_path):
    """Neither rounded to the base's numbers nor with more that is trained."""
    method = bases.method("adalora")
    attached = base.attach(method)
    hold_in(attached.model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        steps(attached, method.hook(attached), 20)
    kinds = {name: (p.dtype, p.requires_grad) for name, p in attached.model.named_parameters()}
    method.save(attached, tmp_path)
    method.restore(attached, tmp_path)
    assert kinds == {name: (p.dtype, p.requires_grad) for name, p in attached.model.named_parameters()}
    saved = load_file(tmp_path / "adapter_model.safetensors")
    held = {name.replace(".default", ""): p for name, p in attached.model.named_parameters()}
    assert saved
    assert all(torch.equal(held[name], tensor) for name, tensor in saved.items())


def test_adalora_without_final_steps_still_reaches_its_budget_at_the_last(base: Base):
    method = bases.method("adalora", args={"tinit": 1})
    attached = base.attach(method)
    assert steps(attached, method.hook(attached), 3) == [False, False, True]
    assert values_left(attached) == 16


def test_adalora_penalty_is_pefts(base: Base):
    """PEFT adds it to a loss that the network computes itself: the difference is the penalty."""
    method = bases.method("adalora")
    attached = base.attach(method)
    ids, labels = bases.batch()
    theirs = attached.model.base_model(input_ids=ids, labels=labels).loss - bases.loss(attached.model)
    ours = method.hook(attached).penalty()
    assert ours.item() > 0.1
    torch.testing.assert_close(ours, theirs)


def test_adalora_needs_steps_to_move_its_budget_in(base: Base):
    method = bases.method("adalora", args={"tinit": 5, "tfinal": 5})
    hook = method.hook(base.attach(method))
    with pytest.raises(UserError, match=r"tinit=5 and tfinal=5 leave no step of 10"):
        hook.start(torch.optim.SGD([torch.zeros(1)], lr=1.0), 10)


@pytest.mark.parametrize("target", [1.5, 2])
def test_adalora_that_would_add_ranks_is_a_conflict(target: float):
    method = bases.method("adalora", rank_args={"init_r": 1.5, "target_r": target})
    assert method.conflict(bases.run()) == (
        f"target_r={4 * target:g} is not below init_r=6, and ranks are only taken away: "
        "write a larger method.rank_args.init_r"
    )
    assert bases.method("adalora").conflict(bases.run(value=1)) is None


def test_adalora_with_pefts_own_first_rank_is_refused_before_training(base: Base):
    method = bases.method("adalora", rank_args={"target_r": 3})
    assert method.conflict(bases.run()) is None
    hook = method.hook(base.attach(method))
    with pytest.raises(UserError, match=r"target_r=12 is not below init_r=12, and ranks are only taken away"):
        hook.start(torch.optim.SGD([torch.zeros(1)], lr=1.0), 20)


def test_others_take_no_part_in_the_loop(base: Base):
    for name in ("dora", "lora"):
        method = bases.method(name)
        hook = method.hook(base.attach(method))
        assert hook.penalty() is None
        assert hook.selectable(0)
