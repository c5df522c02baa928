"""Frozen weights in the compute dtype: the same numbers as autocast makes of them, and fewer bytes."""

from __future__ import annotations

import torch
from torch import nn

from peftbench.methods.frozen import hold_in


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.decoder = nn.Linear(8, 11, bias=False)
        self.decoder.weight = self.embed.weight
        self.requires_grad_(False)
        self.head.requires_grad_(True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.inner(self.embed(ids))
        return self.head(hidden).sum() + self.decoder(hidden).sum()


def test_only_frozen_linear_layers_are_held_and_the_bytes_are_counted() -> None:
    model = Tied()
    assert hold_in(model, torch.bfloat16) == (8 * 8 + 8) * 2
    assert model.inner.weight.dtype == model.inner.bias.dtype == torch.bfloat16
    assert model.head.weight.dtype == model.embed.weight.dtype == model.decoder.weight.dtype == torch.float32
    assert hold_in(model, torch.bfloat16) == 0


def test_float32_changes_nothing() -> None:
    assert hold_in(Tied(), torch.float32) == 0


def test_under_autocast_outputs_and_gradients_stay_the_same_to_the_last_bit() -> None:
    torch.manual_seed(0)
    model, ids = Tied(), torch.arange(11)

    def outcome() -> tuple[torch.Tensor, torch.Tensor]:
        model.head.weight.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(ids)
        y.backward()
        return y.detach(), model.head.weight.grad.clone()

    before = outcome()
    hold_in(model, torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(before, outcome(), strict=True))
