"""The last layer computed at the first token only, with tuners of PEFT in it: their own layers say what is right."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from peft import get_peft_model
from training.test_last_layer import CORE, LENGTH, QUERY_VALUE, gradients, network

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


class Dropped(torch.nn.Module):
    """Dropout that drops of each token the same at every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (by_token(x) > 0)


def by_token(like: torch.Tensor) -> torch.Tensor:
    """Normal numbers of a shape (items, length or less, width): each token of a sequence has its own."""
    drawn = torch.randn(LENGTH, like.shape[-1], dtype=like.dtype, generator=torch.Generator().manual_seed(3))
    return drawn[: like.shape[1]].expand_as(like)


def adapted(name: str, **options: Any) -> Any:
    """A BERT in float64 with that tuner, away from where it begins, in training mode."""
    torch.manual_seed(0)
    config = getattr(peft, f"{name}Config")(**options)
    model = get_peft_model(network("bert", "sdpa"), config).double().train()
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    return model


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
    expected, found = gradients(whole), gradients(ours)
    assert found.keys() == expected.keys()
    for of, gradient in expected.items():
        torch.testing.assert_close(found[of], gradient, msg=of)
