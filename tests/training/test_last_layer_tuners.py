"""The last layer computed at the first token only, with tuners of PEFT in it: their own layers say what is right."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from methods.test_peft_all import ARGS, CLASSES, NOT_HERE
from peft import get_peft_model
from training.test_last_layer import CORE, LENGTH, QUERY_VALUE, WIDTH, gradients, network

from peftbench.training import last_layer

LINEAR: dict[str, dict[str, Any]] = {
    "Frod": {},
    "Gralora": {"r": 4},
    "Pvera": {"r": 4},
    "RandLora": {"r": 4},
    "TinyLora": {},
    "UniLora": {"theta_d_length": 64},
    "VBLoRA": {"vector_length": 4, "num_vectors": 8},
}
"""Tuners whose layers are subclasses of ``nn.Linear``, and what they need at these shapes."""
MORE = {**ARGS, "AdaLoraConfig": {"total_step": 9}, "MissConfig": {"r": 4}, "ShiraConfig": {"r": 4}}
"""What PEFT's classes need here."""


class Dropped(torch.nn.Module):
    """Dropout that drops of each token the same at every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (by_token(x) > 0)


class Normed(torch.nn.BatchNorm1d):
    """A batch norm of channels, over the tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def by_token(like: torch.Tensor) -> torch.Tensor:
    """Normal numbers of a shape (items, length or less, width): each token of a sequence has its own."""
    drawn = torch.randn(LENGTH, like.shape[-1], dtype=like.dtype, generator=torch.Generator().manual_seed(3))
    return drawn[: like.shape[1]].expand_as(like)


def adapted(name: str, **options: Any) -> Any:
    """A BERT in float64 with that tuner, away from where it begins, in training mode."""
    torch.manual_seed(0)
    config = getattr(peft, f"{name}Config")(**options)
    base = network("bert", "sdpa").to(torch.float32 if name == "Psoft" else torch.float64)  # it begins in no other
    model = get_peft_model(base, config).double().train()
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            drawn = torch.Generator().manual_seed(number)
            parameter += torch.randn(parameter.shape, dtype=parameter.dtype, generator=drawn) * 0.1
    return model


def assert_same(ours: Any, whole: Any) -> None:
    """Their gradients."""
    expected, found = gradients(whole), gradients(ours)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_buffers_that_cannot_be_written_to_are_left_alone() -> None:
    model = network("bert", "sdpa")
    model.register_buffer("shared", torch.ones(1).expand(4))
    with torch.inference_mode():
        model.register_buffer("of_inference", torch.ones(4))
    assert last_layer.install(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", LINEAR)
def test_values_of_a_tuner_that_is_a_linear_layer_have_noise_of_their_own(name: str, monkeypatch) -> None:
    """Dropout, and PVeRA's own noise: of every token, not of what attention has made of all of them."""
    dropout = {f"{name.lower()}_dropout": 0.5}
    whole = adapted(name, target_modules=QUERY_VALUE, **dropout, **LINEAR[name])
    assert isinstance(whole.get_submodule(f"{CORE}.value"), torch.nn.Linear)
    monkeypatch.setattr(torch, "randn_like", by_token)
    for part, module in list(whole.named_modules()):
        if isinstance(module, torch.nn.Dropout) and module.p:
            whole.set_submodule(part, Dropped())
    ours = copy.deepcopy(whole)
    assert last_layer.install(ours)
    assert ours.get_submodule(CORE).reads_every_token() == ["value"]
    assert_same(ours, whole)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(NOT_HERE)))
def test_a_step_is_that_of_pefts_layers(name: str) -> None:
    options = {"target_modules": [*QUERY_VALUE, "dense"], **MORE.get(name, {})}
    whole, ours = (adapted(name.removesuffix("Config"), **options).eval() for _ in range(2))
    assert last_layer.install(ours)
    assert_same(ours, whole)


@pytest.mark.parametrize("target", ["query", "attention.output.dense", "intermediate.dense", "output.dense"])
def test_a_tuner_that_joins_tokens_keeps_the_whole_layer(target: str) -> None:
    """Lily's router averages over tokens, though nothing comes of it before the first step."""
    torch.manual_seed(0)
    model = get_peft_model(network("bert", "sdpa"), peft.LilyConfig(target_modules=[target])).double()
    before = [type(module) for module in model.modules()]
    assert not last_layer.install(model)
    assert [type(module) for module in model.modules()] == before


def test_values_may_join_tokens() -> None:
    whole = adapted("Lily", target_modules=["key", "value"])
    ours = copy.deepcopy(whole)
    assert last_layer.install(ours)
    assert ours.get_submodule(CORE).reads_every_token() == ["key", "value"]
    assert_same(ours, whole)


def test_what_joins_tokens_in_training_alone_keeps_the_whole_layer_and_what_it_remembers() -> None:
    model = network("bert", "sdpa").eval()
    block = model.bert.encoder.layer[-1].output
    block.dense = torch.nn.Sequential(block.dense, Normed(WIDTH).double())
    state = copy.deepcopy(model.state_dict())
    assert not last_layer.install(model)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert not model.training
