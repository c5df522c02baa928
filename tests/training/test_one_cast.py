"""One cast for q, k and v: the same answers to the last bit, and gradients as near to the truth as autocast's own.

One for the whole layer, on a CPU: answers and gradients not much farther from the truth than autocast's own.
"""

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

CPU, ELSEWHERE = torch.device("cpu"), torch.device("cuda")
"""Only where the cast is made depends on it: all is computed on the CPU."""


def both(kind: str, first_only: bool, device: torch.device) -> list[nn.Module]:
    """A network in float32, and the same with one cast, as ``device`` has it."""
    plain = network(kind, attention.NAME).float().train()
    if first_only:
        last_layer.install(plain)
    ours = copy.deepcopy(plain)
    assert one_cast.install(ours, device) == (device == CPU and kind != "gpt2")
    return [plain, ours]


def gradients(model: nn.Module, autocast: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(**inputs(padded=True))
    output.loss.backward()
    return output.logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def off(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    return float(sum((found[name].double() - exact[name]).square().sum() for name in exact) ** 0.5)


@pytest.mark.parametrize("first_only", [False, True], ids=["whole", "first"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize(("device", "farther"), [(CPU, 1.6), (ELSEWHERE, 1.2)], ids=["cpu", "elsewhere"])
def test_how_near_to_float64(kind: str, first_only: bool, device: torch.device, farther: float) -> None:
    plain, ours = both(kind, first_only, device)
    truth, exact = gradients(copy.deepcopy(plain).double(), autocast=False)
    (expected, theirs), (found, own) = (gradients(model, autocast=True) for model in (plain, ours))
    assert own.keys() == theirs.keys()
    assert 0 < off(own, exact) < farther * off(theirs, exact)
    if device == ELSEWHERE:
        assert torch.equal(found, expected)
    else:
        # Four pairs of logits of a tiny network: 1.84 times as far at most.
        assert 0 < (found.double() - truth).norm() < 2 * (expected.double() - truth).norm()


@pytest.mark.parametrize(("kind", "dtype"), [("bert", torch.bfloat16), ("gpt2", torch.float32)])
def test_on_a_cpu_norms_answer_in_bf16_where_they_come_after_the_sums(kind: str, dtype: torch.dtype) -> None:
    _, ours = both(kind, first_only=False, device=CPU)
    seen: list[torch.dtype] = []
    for layer in layouts.find(ours).layers:
        layer.register_forward_hook(
            lambda module, args, y: seen.append((y if isinstance(y, torch.Tensor) else y[0]).dtype)
        )
    gradients(ours, autocast=True)
    assert seen == [dtype] * LAYERS


@pytest.mark.parametrize(("kind", "saved"), [("bert", 4 * LAYERS), ("gpt2", 0)])
def test_two_casts_there_and_two_back_are_saved_in_every_layer(kind: str, saved: int) -> None:
    counts = []
    for model in both(kind, first_only=False, device=ELSEWHERE):
        with Ops() as ops:
            gradients(model, autocast=True)
        counts.append(ops.counts["_to_copy"])
    assert counts[0] - counts[1] == saved


@pytest.mark.parametrize("device", [CPU, ELSEWHERE], ids=["cpu", "elsewhere"])
@pytest.mark.parametrize("change", [nn.Module.eval, one_cast.uninstall])
def test_evaluation_and_what_it_was_taken_out_of_is_as_before(
    change: Callable[[nn.Module], object], device: torch.device
) -> None:
    plain, ours = both("bert", first_only=True, device=device)
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
    layer = layouts.find(ours).layers[0]
    assert all(type(module).__module__.startswith("transformers.") for module in (layer, layer.attention.self))
