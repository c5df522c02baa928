"""One cast for q, k and v: the same answers to the last bit, and gradients as near to the truth as autocast's own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from training.test_last_layer import LAYERS, inputs, network

from peftbench.bench.contenders import Ops
from peftbench.models import layout as layouts
from peftbench.training import attention, last_layer, one_cast


def both(kind: str, first_only: bool) -> list[nn.Module]:
    """A network in float32, and the same with one cast."""
    plain = network(kind, attention.NAME).float().train()
    if first_only:
        last_layer.install(plain)
    ours = copy.deepcopy(plain)
    one_cast.install(ours)
    return [plain, ours]


def gradients(model: nn.Module, autocast: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(**inputs(padded=True))
    output.loss.backward()
    return output.logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("first_only", [False, True], ids=["whole", "first"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_answers_are_equal_and_gradients_as_near_to_float64(kind: str, first_only: bool) -> None:
    plain, ours = both(kind, first_only)
    _, exact = gradients(copy.deepcopy(plain).double(), autocast=False)
    (expected, theirs), (found, own) = (gradients(model, autocast=True) for model in (plain, ours))
    assert torch.equal(found, expected)
    assert own.keys() == theirs.keys()

    def off(grads: dict[str, torch.Tensor]) -> float:
        return float(sum((grads[name].double() - exact[name]).square().sum() for name in exact) ** 0.5)

    assert 0 < off(own) < 1.2 * off(theirs)


@pytest.mark.parametrize(("kind", "saved"), [("bert", 4 * LAYERS), ("gpt2", 0)])
def test_two_casts_there_and_two_back_are_saved_in_every_layer(kind: str, saved: int) -> None:
    counts = []
    for model in both(kind, first_only=False):
        with Ops() as ops:
            gradients(model, autocast=True)
        counts.append(ops.counts["_to_copy"])
    assert counts[0] - counts[1] == saved


@pytest.mark.parametrize("change", [nn.Module.eval, one_cast.uninstall])
def test_evaluation_and_what_it_was_taken_out_of_is_as_before(change: Callable[[nn.Module], object]) -> None:
    plain, ours = both("bert", first_only=True)
    for model in (plain, ours):
        change(model)
    counts = []
    for model in (plain, ours):
        with Ops() as ops, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            model(**inputs(padded=True))
        counts.append(ops.counts)
    assert counts[0] == counts[1]
    one_cast.uninstall(ours)
    last_layer.uninstall(ours)
    core = layouts.find(ours).layers[0].attention.self
    assert type(core).__module__.startswith("transformers.")
