"""What every sparsity but ``none`` has in common: its target, its schedule, and the skeleton of its hook. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from peftbench.errors import UserError
from peftbench.sparsity import schedule as schedules
from peftbench.sparsity.base import Sparsity
from peftbench.training.hooks import Hook

if TYPE_CHECKING:
    import torch

    from peftbench.methods.base import Attached

# What null stands for. Not at the very start: B begins at zero and A at random, so magnitudes mean nothing until both
# have been trained for a while; not at the very end: the entries that stay have to recover.
DEFAULTS: dict[str, dict[str, float | int]] = {
    "oneshot": {"start": 0.5},
    "gradual": {"start": 0.2, "end": 0.7, "interval": 10},
}


class Pruning(Sparsity):
    """A sparsity that reaches a target while training; base class of all but ``none``."""

    active: ClassVar[bool] = True

    ratio: float
    """Target fraction of zeros (or of removed components), between 0 and 1."""
    schedule: Literal["oneshot", "gradual"]
    """All at once at ``start``, or Zhu & Gupta's cubic from ``start`` to ``end``."""
    start: float
    """Fraction of the training steps; null: 0.5 for oneshot, 0.2 for gradual."""
    end: float | None
    """Fraction of the training steps from which the mask is fixed; null: 0.7 for gradual. Gradual only."""
    interval: int | None
    """Steps between two updates of the mask; null: 10 for gradual. Gradual only."""

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, fields: Any) -> Any:
        # Resolved here, so that `sparsity.schedule=oneshot,gradual` is one grid and the hash sees what is really done.
        if not isinstance(fields, dict):
            return fields
        given = {name: value for name, value in fields.items() if value is not None}
        unused = {"start": None, "end": None, "interval": None}
        return {**unused, **DEFAULTS.get(str(fields.get("schedule")), DEFAULTS["gradual"]), **given}

    @field_validator("ratio")
    @classmethod
    def _ratio_in_range(cls, value: float) -> float:
        if not 0 < value < 1:
            raise ValueError("must be between 0 and 1 (exclusive): write sparsity=none for a dense adapter")
        return value

    @field_validator("start", "end")
    @classmethod
    def _fraction_in_range(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value < 1:
            raise ValueError("must be a fraction of the training steps between 0 and 1 (exclusive): write 0.5, say")
        return value

    @field_validator("interval")
    @classmethod
    def _interval_in_range(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError("must be at least 1 step")
        return value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Pruning:
        for name in ("end", "interval"):
            if self.schedule == "oneshot" and getattr(self, name) is not None:
                raise ValueError(f"schedule=oneshot prunes once, at start: write sparsity.{name}=null")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"start ({self.start:g}) must come before end ({self.end:g})")
        return self

    def plan(self, total_steps: int) -> schedules.Plan:
        """The steps of a training of ``total_steps`` after which something is pruned."""
        return schedules.plan(self.ratio, self.start, self.end, self.interval, total_steps)


class PruningHook(Hook, ABC):
    """Prunes ``attached.factors`` when the plan says so; how is up to the subclass.

    Raises:
        UserError: there are no factors to prune.
    """

    optimizer: torch.optim.Optimizer
    plan: schedules.Plan

    def __init__(self, sparsity: Pruning, attached: Attached) -> None:
        if not attached.factors:
            raise UserError(f"sparsity={sparsity.name}: there are no low-rank factors to prune: write sparsity=none")
        self.sparsity = sparsity
        self.factors = attached.factors

    def start(self, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        """Remember whose moments to prune, and turn the schedule into steps."""
        self.optimizer = optimizer
        self.plan = self.sparsity.plan(total_steps)

    def after_step(self, step: int) -> None:
        """Prune further if ``step`` is one of the plan's."""
        if self.plan.due(step):
            self.prune(self.plan.target(step))

    def selectable(self, step: int) -> bool:
        """Whether the target is reached: only then does a checkpoint have the sparsity that it is reported with."""
        return step >= self.plan.final

    def notes(self) -> list[str]:
        """That a gradual schedule was none, because the training is too short for its interval."""
        plan, interval = self.plan, self.sparsity.interval
        if self.sparsity.schedule != "gradual" or plan.updates > 1:
            return []
        between = plan.final - plan.first
        told = f"sparsity.schedule=gradual pruned once, after step {plan.final + 1}, as oneshot does"
        if between < 2:
            return [f"{told}: from start to end is one step or none, so write another end, or train for longer"]
        less = max(1, between // 5)
        return [
            f"{told}: from start to end are {between} steps, so write sparsity.interval={less} instead of {interval}"
        ]

    @abstractmethod
    def prune(self, ratio: float) -> None:
        """Bring the factors to sparsity ``ratio``, never undoing what was pruned before."""
