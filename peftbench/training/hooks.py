"""Where something can take part in training without the loop knowing what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from peftbench.tasks.base import Batch


class Hook:
    """A participant in the training loop; every method of this base class does nothing.

    One optimizer step ``t`` (0-based, of ``total_steps``) is: forward, ``loss + penalty()``, backward,
    ``before_step(t)``, gradient clipping, ``optimizer.step()``, ``after_step(t)``.
    """

    def prepare(self, batches: Iterator[Batch], loss: Callable[[Batch], torch.Tensor]) -> None:
        """Called once before `start`, to measure what must be known of the data; must leave all generators alone.

        Args:
            batches: the training batches from the first one on, on the device; those not asked for cost nothing.
            loss: runs the model on one of them, in the precision of training.
        """

    def start(self, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        """Called once before the first step."""

    def penalty(self) -> torch.Tensor | None:
        """A scalar to add to the loss of this step, or None."""
        return None

    def before_step(self, step: int) -> None:
        """Called when the gradients are there and not yet clipped."""

    def after_step(self, step: int) -> None:
        """Called after ``optimizer.step()``."""

    def selectable(self, step: int) -> bool:
        """Whether the weights after ``step`` may be selected (a target sparsity is reached, say)."""
        return True

    def leave(self) -> None:
        """Called once after `metrics` and `decisions`: take out of the network what only training needs there."""

    def metrics(self) -> dict[str, float]:
        """Figures of this training that only the hook knows, by the glossary's names; called once after it."""
        return {}

    def notes(self) -> list[str]:
        """What a reader of this run must know, in sentences; called once after it."""
        return []

    def decisions(self) -> dict[str, Any]:
        """What was decided from the data, for the record: JSON types, under a name of its own; called once after it."""
        return {}
