"""Where something can take part in training without the loop knowing what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Hook:
    """A participant in the training loop; every method of this base class does nothing.

    One optimizer step ``t`` (0-based, of ``total_steps``) is: forward, ``loss + penalty()``, backward,
    ``before_step(t)``, gradient clipping, ``optimizer.step()``, ``after_step(t)``.
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
