"""The loop against torch written out by hand, and the one rule that selects a checkpoint."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.config import Trainer
from peftbench.errors import Skip, UserError
from peftbench.methods.base import Attached
from peftbench.tasks.base import Batch, Encoded, Evaluation
from peftbench.training.hooks import Hook
from peftbench.training.loop import Diverged, Loop
from peftbench.training.optimizer import build_optimizer, build_schedule

ITEMS = 12


def recipe(**changes) -> Trainer:
    fields = {
        "epochs": 2.0, "max_steps": None, "lr": 0.05, "batch_size": 4, "eval_batch_size": 4, "precision": "fp32",
        "attention": "auto", "optimizer": "adamw", "weight_decay": 0.1, "betas": (0.9, 0.999), "schedule": "linear",
        "warmup_ratio": 0.0, "max_grad_norm": 1.0, "gradient_checkpointing": False, "validations": 2, "select": "last",
    }  # fmt: skip
    return Trainer(**{**fields, **changes})


class Regression:
    """A stand-in for a task: rows of numbers in order, a squared loss, and validation figures told in advance."""

    primary = "quality/accuracy"
    greater_is_better = True

    def __init__(self, figures: list[float] | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(ITEMS, 3, generator=generator)
        self.y = torch.randn(ITEMS, 1, generator=generator)
        self.figures = list(figures or [])

    def steps_per_epoch(self, data: Encoded, batch_size: int) -> int:
        return -(-len(data) // batch_size)

    def batches(self, data: Encoded, batch_size: int, *, seed: int | None):
        for start in range(0, len(data), batch_size):
            rows = np.arange(start, min(start + batch_size, len(data)))
            inputs = {"input_ids": torch.tensor(rows)}
            yield Batch(inputs, torch.tensor(rows), rows, real_tokens=len(rows))

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return (model(self.x[batch.labels]) - self.y[batch.labels]).square().mean()

    def evaluate(self, model: nn.Module, data: Encoded, batch_size: int, device: torch.device) -> Evaluation:
        assert not model.training
        return Evaluation({"quality/accuracy": self.figures.pop(0) if self.figures else 0.5}, {})


def encoded(items: int = ITEMS) -> Encoded:
    return Encoded(np.zeros(items, np.int32), np.arange(items + 1), None, np.arange(items), False)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(3, 1)


def loop(model: nn.Module, task: Regression, trainer: Trainer, *hooks: Hook, **changes) -> Loop:
    fields = {"seed": 0, "device": torch.device("cpu"), "autocast": nullcontext, "hooks": hooks, **changes}
    return Loop(Attached(model), task, encoded(), encoded(2), trainer, **fields)


def test_the_loop_is_torch_written_out_by_hand() -> None:
    trained, expected = network(), network()
    task = Regression()
    told = []
    loop(trained, task, recipe(), report=lambda step, total, figures: told.append(figures.get("train/lr"))).run()
    groups = [{"params": [expected.weight], "weight_decay": 0.1}, {"params": [expected.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05)
    for step in range(6):
        rows = slice(4 * (step % 3), 4 * (step % 3) + 4)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (6 - step) / 6
        optimizer.zero_grad()
        (expected(task.x[rows]) - task.y[rows]).square().mean().backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(trained.weight, expected.weight)
    torch.testing.assert_close(trained.bias, expected.bias)
    rates = [rate for rate in told if rate is not None]
    assert rates == pytest.approx([0.05 * (6 - step) / 6 for step in range(6)]), "of the step, not of the next one"


@pytest.mark.parametrize(("epochs", "max_steps", "steps"), [(1, None, 3), (2, None, 6), (0.5, None, 2), (5, 4, 4)])
def test_steps(epochs: float, max_steps: int | None, steps: int) -> None:
    assert loop(network(), Regression(), recipe(epochs=epochs, max_steps=max_steps)).run().steps == steps


class Snapshots(Hook):
    """Keeps the weights after every step."""

    def __init__(self, model: nn.Module, selectable_from: int = 0) -> None:
        self.model, self.taken, self.first = model, [], selectable_from

    def after_step(self, step: int) -> None:
        self.taken.append(self.model.weight.detach().clone())

    def selectable(self, step: int) -> bool:
        return step >= self.first


@pytest.mark.parametrize(
    ("figures", "select", "first", "step"),
    [
        ([0.1, 0.9, 0.4], "best", 0, 4),
        ([0.1, 0.9, 0.9], "best", 0, 4),
        ([0.9, 0.1, 0.4], "best", 2, 6),
        ([0.5, math.nan, math.nan], "best", 0, 2),
        ([math.nan, 0.1, 0.05], "best", 0, 4),
        ([0.9, 0.1, 0.4], "last", 0, 6),
    ],
)
def test_the_selected_weights_are_left_in_the_model(figures, select, first, step) -> None:
    model = network()
    hook = Snapshots(model, first)
    trained = loop(model, Regression(figures), recipe(select=select, validations=3), hook).run()
    assert trained.selection["step"] == step
    assert [report["step"] for report in trained.history] == [2, 4, 6]
    assert torch.equal(model.weight, hook.taken[step - 1])


def test_nothing_selectable_is_an_error() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="target sparsity"):
        loop(model, Regression(), recipe(), Snapshots(model, selectable_from=99)).run()


def test_a_diverged_loss_says_so() -> None:
    task = Regression()
    task.y[:] = float("nan")
    with pytest.raises(Diverged, match=r"smaller trainer\.lr"):
        loop(network(), task, recipe()).run()


def test_what_takes_no_part_in_the_loss_is_said_and_refused_where_that_is_all_of_the_adapter() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.unread = network(), network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.read(x)

    (note,) = loop(Half(), Regression(), recipe()).run().notes
    assert note.startswith("2 of the adapter's 4 tensors took no part")
    assert note.endswith("unread.weight, unread.bias")
    only_head_reads = loop(Half(), Regression(), recipe())
    only_head_reads.attached.head = ("read",)
    with pytest.raises(UserError, match="nothing of the adapter takes part in the loss"):
        only_head_reads.run()
    probe = loop(network(), Regression(), recipe())
    probe.attached.head = ("weight", "bias")
    assert probe.run().notes == [], "a method may train the head alone"


def test_penalties_are_in_the_gradient_and_not_in_the_reported_loss() -> None:
    class Penalty(Hook):
        def penalty(self) -> torch.Tensor:
            return 1000 * model.weight.abs().sum()

    seen: list[dict[str, float]] = []
    model = network()
    plain = network()
    loop(model, Regression(), recipe(epochs=0.1), Penalty(), report=lambda *args: seen.append(args[2])).run()
    task = Regression()
    first = (plain(task.x[:4]) - task.y[:4]).square().mean().item()
    assert seen[0]["train/loss"] == pytest.approx(first)
    loop(plain, Regression(), recipe(epochs=0.1)).run()
    assert not torch.equal(plain.weight, model.weight)


def test_paged_optimizers_need_cuda() -> None:
    with pytest.raises(Skip, match=r"trainer\.optimizer=adamw"):
        build_optimizer(Attached(network()), recipe(optimizer="paged_adamw"), torch.device("cpu"))


@pytest.mark.parametrize("total", [1, 2, 30])
def test_some_step_has_a_rate(total: int) -> None:
    """A warm-up begins with a rate of 0, and must not be all there is."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    schedule = build_schedule(optimizer, recipe(warmup_ratio=0.06), total)
    rates = []
    for _ in range(total):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(rates) > 0.5


@pytest.mark.parametrize("told", [{"figure": np.float32(0.5)}, {("a", "b"): 1}, {"mask": np.arange(3)}])
def test_what_a_record_cannot_hold_is_said_of_the_hook_that_tells_it(told: dict[Any, Any]) -> None:
    class Figures(Hook):
        def metrics(self) -> dict[str, Any]:
            return told

    with pytest.raises(UserError, match=r"^Figures tells what JSON has not \(.*\): write float"):
        loop(network(), Regression(), recipe(), Figures()).run()


def test_a_head_that_is_one_text_is_no_names() -> None:
    with pytest.raises(UserError, match=r"the head of what is attached is 'classifier': write .* \('classifier',\)"):
        Attached(network(), "classifier")
