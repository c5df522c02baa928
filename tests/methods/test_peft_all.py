"""Every tuner of PEFT that works layer by layer: it learns, and PEFT itself loads from our files what was evaluated."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file

from peftbench.errors import UserError
from peftbench.methods.peft import REFUSED

from . import bases
from .bases import Base

CLASSES = {
    PEFT_TYPE_TO_CONFIG_MAPPING[kind].__name__: PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
    if issubclass(tuner, BaseTuner)
}
NOT_HERE = {**REFUSED, "ShadowConfig": "for decoders", "TrainableTokensConfig": "adapts an embedding"}
"""Classes that cannot be tried on the linear layers of an encoder."""
ARGS = {
    "C3AConfig": {"block_size": 4},
    "FourierFTConfig": {"n_frequency": 10},
    "IA3Config": {"feedforward_modules": []},
    "RoadConfig": {"group_size": 4},
    "VBLoRAConfig": {"vector_length": 4},
    "WaveFTConfig": {"n_frequency": 10},
}


def options(name: str) -> dict:
    """What a user writes for a class: its name for alpha, and no rank where it has none."""
    known = {field.name for field in dataclasses.fields(CLASSES[name])}
    alpha = next((arg for arg in ("alpha", "lora_alpha") if arg in known), None)
    ranked = "r" in known and name != "OFTConfig"  # which wants a rank or the size of its blocks
    return {
        "config_class": name,
        "alpha_arg": alpha,
        "rank_args": {"r": 1} if ranked else None,
        "args": ARGS.get(name, {}),
    }


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(NOT_HERE)))
def test_peft_loads_what_was_evaluated(base: Base, tmp_path, name: str) -> None:
    method = bases.method("peft", **options(name))
    attached = base.attach(method)
    before = bases.logits(attached.model)
    losses = bases.train(attached, lr=0.01)
    assert losses[-1] < losses[0]
    expected = bases.logits(attached.model)
    assert (expected - before).abs().max() > 1e-3
    method.save(attached, tmp_path)
    torch.manual_seed(99)
    fresh = base.attach(method)
    method.restore(fresh, tmp_path)
    torch.testing.assert_close(bases.logits(fresh.model), expected, rtol=1e-5, atol=1e-5)
    network = base.load().model
    network.load_state_dict(load_file(tmp_path / "head.safetensors"), strict=False)
    theirs = PeftModel.from_pretrained(network, tmp_path).eval()
    torch.testing.assert_close(bases.logits(theirs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("LoraConfig", r"LoraConfig has no alpha; write method.alpha_arg=lora_alpha; it has "),
        ("RandLoraConfig", r"has no alpha; write method.alpha_arg=randlora_alpha; it has "),
        ("FrodConfig", r"has no alpha, r; .*; write method.alpha_arg=null; it has .*regularization_alpha"),
        ("MissConfig", r"MissConfig has no alpha; write method.alpha_arg=null; it has "),
        (
            "LNTuningConfig",
            r"has no alpha, r; write method.rank_args=null, or ~method.rank_args.r \+method.rank_args.NAME=1",
        ),
    ],
)
def test_a_class_with_other_names_for_rank_and_alpha_is_answered(base: Base, name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        base.attach(bases.method("peft", config_class=name))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"config_class": "PromptTuningConfig"}, r"works on the input, not layer by layer; write one of .*LoHaConfig"),
        ({"config_class": "PolyConfig"}, r"asks for task ids"),
        ({"config_class": "LilyConfig"}, r"depends on the rest of its batch"),
        ({"config_class": "XLoraConfig"}, r"mixes adapters"),
        *(
            ({"config_class": "LoraConfig", "alpha_arg": "lora_alpha", "args": args}, told)
            for args, told in (
                ({"init_lora_weights": "eva"}, "needs a preparation on data"),
                ({"init_lora_weights": "lora_ga"}, "needs a preparation on data"),
                ({"init_lora_weights": "pissa_niter_4"}, "write pissa"),
                ({"use_qalora": True}, "leave it out"),
            )
        ),
    ],
)
def test_what_would_not_be_what_it_is_called_is_refused(base: Base, written: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        base.attach(bases.method("peft", **written))


def test_what_peft_would_not_load_again_is_said_before_training(tmp_path) -> None:
    """PEFT fills feedforward_modules in by architecture, whatever the targets are, and refuses them when it loads."""
    bert = Base("bert", tmp_path)
    with pytest.raises(UserError, match=r"would not load .*feedforward_modules"):
        bert.attach(bases.method("peft", config_class="IA3Config", rank_args=None, alpha_arg=None))
