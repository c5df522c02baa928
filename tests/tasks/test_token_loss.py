"""The loss of a frozen output layer: torch's own cross entropy in value and gradient, and never a batch of logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench.data.base import Split
from peftbench.tasks import language_modeling, token_loss
from peftbench.tasks.causal_lm import CausalLM
from peftbench.tasks.masked_lm import MaskedLM

CAUSAL = CausalLM(12, 0, None, 6)
MASKED = MaskedLM(12, 0, None, mask_id=4, special_ids=(0, 1, 2, 3, 4), vocab_size=65, mask_seed=0)
TASKS = {"gpt2": CAUSAL, "bert": MASKED}
ROWS = 3


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_loss, "LOGITS", {"cpu": 1})
    monkeypatch.setattr(token_loss, "FEWEST_ROWS", ROWS)


class Largest(TorchDispatchMode):
    """The most entries of one result, views left out, whose last dimension is ``width``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.entries = width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not func.is_view and found.shape[-1:] == (self.width,):
            self.entries = max(self.entries, found.numel())
        return found


def problem(dtype: torch.dtype, bias: bool) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(6, 11, bias=bias, dtype=dtype).requires_grad_(False)
    x = (3 * torch.randn(8, 6, dtype=torch.float64)).to(dtype).requires_grad_()
    return layer, x, torch.randint(0, 11, (8,))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_losses_and_gradient_are_those_of_torchs_cross_entropy(dtype, tolerance, bias) -> None:
    layer, x, targets = problem(dtype, bias)
    weights = torch.arange(1.0, 9.0, dtype=torch.float64)
    losses = token_loss.token_losses(layer, x, targets)
    assert losses.dtype == torch.promote_types(dtype, torch.float32)
    (losses.double() * weights).sum().backward()
    exact = x.detach().double().requires_grad_()
    expected = nn.functional.cross_entropy(layer.double()(exact), targets, reduction="none")
    (expected * weights).sum().backward()
    assert torch.allclose(losses.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.allclose(x.grad.double(), exact.grad, rtol=0, atol=tolerance * float(exact.grad.abs().max()))


def test_the_gradient_is_that_of_finite_differences() -> None:
    layer, x, targets = problem(torch.float64, True)
    assert torch.autograd.gradcheck(lambda x: token_loss.token_losses(layer, x, targets), (x,))


@pytest.fixture
def lines() -> Split:
    words = [f"w{token}" for token in np.random.default_rng(1).integers(0, 60, 200)]
    return Split("test", [" ".join(words[start : start + 9]) for start in range(0, 200, 9)], None, range(23))


def frozen_head(model: nn.Module) -> nn.Module:
    """``model`` with all but its first layer's weights frozen, and the output layer's no longer the embeddings'."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".0." in name)
    return model


@pytest.mark.parametrize("architecture", list(TASKS))
def test_a_network_learns_the_same_and_its_logits_are_never_whole(
    architecture, lines, cache_folder, tokenizer, network, monkeypatch
) -> None:
    task = TASKS[architecture]
    data = task.encode(lines, tokenizer, train=True)
    model = frozen_head(network(task, architecture)).double()
    vocabulary = model.get_output_embeddings().weight.shape[0]
    (batch,) = task.batches(data, len(data), seed=0)
    found = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(token_loss, "fits", lambda layer: False)
        model.zero_grad()
        with Largest(vocabulary) as seen:
            loss = task.loss(model, batch)
            loss.backward()
        with torch.no_grad():
            result = task.evaluate(model, data, 4, torch.device("cpu"))
        gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
        found.append((loss.detach(), gradients, result.predictions["nll"]))
        assert (seen.entries == ROWS * vocabulary) != whole
    (loss, gradients, nll), (expected, expected_gradients, expected_nll) = found
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for gradient, exact in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(nll, expected_nll, rtol=1e-6)


def test_a_network_that_changes_its_logits_is_asked_for_them(lines, cache_folder, tokenizer, network) -> None:
    """Gemma 2 and others cap what the output layer answers."""

    class Capped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model
            self.get_output_embeddings = model.get_output_embeddings

        def forward(self, **inputs: torch.Tensor) -> Any:
            answer = self.model(**inputs)
            answer.logits = answer.logits / 2
            return answer

    data = CAUSAL.encode(lines, tokenizer, train=True)
    model = frozen_head(network(CAUSAL, "gpt2"))
    capped = Capped(model)
    (batch,) = CAUSAL.batches(data, len(data), seed=0)
    logits = model(**batch.inputs).logits / 2
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
    for _ in range(2):
        assert CAUSAL.loss(capped, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.get_output_embeddings() in language_modeling._CHANGED


def test_memory_that_runs_out_says_nothing_of_a_network(lines, cache_folder, tokenizer, network) -> None:
    data = CAUSAL.encode(lines, tokenizer, train=True)
    model = frozen_head(network(CAUSAL, "gpt2"))
    (batch,) = CAUSAL.batches(data, len(data), seed=0)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    with model.transformer.register_forward_pre_hook(full), pytest.raises(torch.OutOfMemoryError):
        CAUSAL.loss(model, batch)
    assert model.get_output_embeddings() not in language_modeling._CHANGED


def test_a_trained_output_layer_keeps_its_logits() -> None:
    layer = nn.Linear(3, 4)
    assert not token_loss.fits(layer)
    assert token_loss.fits(layer.requires_grad_(False))
    assert not token_loss.fits(nn.Sequential(layer))
