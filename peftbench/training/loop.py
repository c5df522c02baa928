"""The training loop: one pass of optimizer steps, with validation on the way and selection by one stated rule.

The loop knows a model, a task and hooks; it knows neither which method is attached nor how many adapters there are.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftbench.errors import UserError
from peftbench.glossary import validated
from peftbench.measuring.curve import Curve
from peftbench.measuring.throughput import StepMeter
from peftbench.training.hooks import Hook
from peftbench.training.optimizer import build_optimizer, build_schedule
from peftbench.training.reach import Reach

if TYPE_CHECKING:
    from peftbench.config import Trainer
    from peftbench.methods.base import Attached
    from peftbench.tasks.base import Batch, Encoded, Task

Report = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, figures); the figures are empty between logged steps."""
LOGGED_STEPS = 50


class Diverged(RuntimeError):
    """The training loss is no longer a finite number."""


@dataclass
class Trained:
    """What training leaves behind besides the weights, which are the selected ones."""

    steps: int
    metrics: dict[str, float]
    history: list[dict[str, float]] = field(default_factory=list)
    selection: dict[str, Any] = field(default_factory=dict)
    decisions: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Loop:
    """Everything one training needs; `run` carries it out."""

    attached: Attached
    task: Task
    train: Encoded
    validation: Encoded
    recipe: Trainer
    seed: int
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    hooks: Sequence[Hook] = ()
    report: Report = lambda step, total, figures: None
    compiled: nn.Module | None = None
    """What computes the loss of a training step; None is the attached model itself."""
    _reach: Reach | None = field(default=None, init=False)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training: the epochs', or ``max_steps`` where that is less."""
        per_epoch = self.task.steps_per_epoch(self.train, self.recipe.batch_size)
        steps = max(1, math.ceil(self.recipe.epochs * per_epoch))
        return min(steps, self.recipe.max_steps or steps)

    def run(self) -> Trained:
        """Train, validate, and leave the selected weights in the model.

        Raises:
            Diverged: the loss became NaN or infinite.
            UserError: the loss does not depend on the adapter.
        """
        total = self.total_steps
        model = self.attached.model
        optimizer = build_optimizer(self.attached, self.recipe, self.device)
        schedule = build_schedule(optimizer, self.recipe, total)
        meter = StepMeter(self.device, total)
        best = Best(self.task, self.recipe.select)
        trained = Trained(total, {})
        for hook in self.hooks:
            hook.prepare((batch.to(self.device) for batch in self._batches()), partial(self._loss, self.attached.model))
            hook.start(optimizer, total)
        model.train()
        losses, curve = Losses(), Curve(self.device)
        for step, batch in enumerate(itertools.islice(self._batches(), total)):
            meter.begin()
            losses.add(self._step(step, batch, optimizer))
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            meter.end(batch.real_tokens, batch.computed_tokens, len(batch.rows))
            curve.add(batch.real_tokens)
            self._log(step, total, losses, curve, rate)
            if self._validates(step, total):
                trained.history.append(self._validate(step, losses))
                curve.restart()
                if all(hook.selectable(step) for hook in self.hooks):
                    best.offer(self.attached, trained.history[-1])
        best.restore(self.attached)
        trained.notes += [] if self._reach is None else self._reach.notes()
        trained.metrics = meter.metrics()
        for hook in self.hooks:
            trained.metrics |= _recordable(hook.metrics(), hook)
            trained.decisions |= _recordable(hook.decisions(), hook)
            trained.notes += hook.notes()
        trained.selection = best.selection
        return trained

    def _batches(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            # A seed per epoch, apart from neighbouring run seeds.
            yield from self.task.batches(self.train, self.recipe.batch_size, seed=self.seed * 1_000_003 + epoch)

    def _step(self, step: int, batch: Batch, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """One optimizer step; returns the (detached) loss without penalties, still on the device."""
        model = self.attached.model if self.compiled is None else self.compiled
        loss = self._loss(model, batch.to(self.device))
        penalties = [penalty for hook in self.hooks if (penalty := hook.penalty()) is not None]
        torch.stack([loss, *penalties]).sum().backward()
        if step == 0:
            self._reach = Reach(self.attached)
        for hook in self.hooks:
            hook.before_step(step)
        # The optimizer's own list: to walk the network for it takes a millisecond.
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(trained, self.recipe.max_grad_norm)
        optimizer.step()
        for hook in self.hooks:
            hook.after_step(step)
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        with self.autocast():
            return self.task.loss(model, batch)

    def _log(self, step: int, total: int, losses: Losses, curve: Curve, lr: float) -> None:
        every = max(1, total // LOGGED_STEPS)
        logged = (step + 1) % every == 0 or self._validates(step, total)
        if logged and self._reach is not None:
            self._reach.check()
        figures = {"train/loss": losses.recent(step), "train/lr": lr, **curve.read()} if logged else {}
        self.report(step + 1, total, figures)

    def _validates(self, step: int, total: int) -> bool:
        count = min(self.recipe.validations, total)
        return (step + 1) in {round(total * (i + 1) / count) for i in range(count)}

    def _validate(self, step: int, losses: Losses) -> dict[str, float]:
        """Figures on the validation split after ``step``, with the mean train loss since the last time."""
        model = self.attached.model
        model.eval()
        with torch.no_grad(), self.autocast():
            result = self.task.evaluate(model, self.validation, self.recipe.eval_batch_size, self.device)
        model.train()
        figures = {validated(name): value for name, value in result.metrics.items()}
        self.report(step + 1, self.total_steps, figures)
        return {"step": step + 1, "train/loss": losses.mean(), **figures}


class Losses:
    """Running means of the loss, kept on the device so that a step never waits for the host."""

    def __init__(self) -> None:
        self._recent: list[torch.Tensor] = []
        self._since: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor) -> None:
        """Count the (detached) loss of one step."""
        self._recent.append(loss)

    def recent(self, step: int) -> float:
        """Mean since the last call; waits for the device.

        Raises:
            Diverged: it is not a finite number.
        """
        mean = torch.stack(self._recent).float().mean()
        self._since += [mean] * len(self._recent)
        self._recent = []
        if not math.isfinite(value := float(mean)):
            raise Diverged(f"the training loss is {value} at step {step + 1}: write a smaller trainer.lr")
        return value

    def mean(self) -> float:
        """Mean over the logged steps since the last call."""
        mean = torch.stack(self._since).mean()
        self._since = []
        return float(mean)


class Best:
    """The one rule that selects a checkpoint, and the weights it selected."""

    def __init__(self, task: Task, rule: str) -> None:
        self._metric = validated(task.primary)
        self._sign = 1 if task.greater_is_better else -1
        self._rule = rule
        self._state: dict[str, torch.Tensor] | None = None
        self.selection: dict[str, Any] = {"rule": rule, "metric": self._metric}

    def offer(self, attached: Attached, report: dict[str, float]) -> None:
        """Keep the present weights if the rule prefers them; an equal figure does not replace an earlier one, nor does
        one that is no number."""
        value, held = report[self._metric], self.selection.get("value", math.nan)
        if self._rule == "best" and not math.isnan(held) and not self._sign * value > self._sign * held:
            return
        self.selection |= {"step": int(report["step"]), "value": value}
        if self._rule == "best":
            self._state = {name: p.detach().clone() for name, p in attached.trainable()}

    def restore(self, attached: Attached) -> None:
        """Put the selected weights back into the model.

        Raises:
            RuntimeError: nothing could be selected (a target sparsity that was never reached).
        """
        if "step" not in self.selection:
            raise RuntimeError("no checkpoint could be selected: the target sparsity was not reached by the last step")
        if self._state is None:
            return
        with torch.no_grad():
            for name, parameter in attached.trainable():
                parameter.copy_(self._state[name])


def _recordable(found: dict[str, Any], hook: Hook) -> dict[str, Any]:
    """What a hook tells, which the record must be able to hold: else all of the run would be lost with it."""
    try:
        json.dumps(found)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{type(hook).__name__} tells what JSON has not ({error}): write float(...) and lists"
        ) from error
    return found
