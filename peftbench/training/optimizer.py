"""Optimizers and learning-rate schedules, the same for every method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from peftbench.errors import Skip

if TYPE_CHECKING:
    from peftbench.config import Trainer
    from peftbench.methods.base import Attached


def build_optimizer(attached: Attached, recipe: Trainer, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimizer over everything that is trained; vectors (biases, norms) have no weight decay.

    Raises:
        Skip: a paged optimizer without CUDA.
    """
    parameters = [p for _, p in attached.trainable()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    common = {"lr": recipe.lr, "betas": recipe.betas}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common, fused=device.type in ("cuda", "cpu"))  # type: ignore[arg-type]
    if device.type != "cuda":
        raise Skip(f"trainer.optimizer={recipe.optimizer} pages to CUDA memory: write trainer.optimizer=adamw here")
    import bitsandbytes

    kinds = {"paged_adamw": "PagedAdamW32bit", "paged_adamw_8bit": "PagedAdamW8bit"}
    return getattr(bitsandbytes.optim, kinds[recipe.optimizer])(groups, **common)


def build_schedule(
    optimizer: torch.optim.Optimizer, recipe: Trainer, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up over ``warmup_ratio`` of the steps, then the recipe's schedule down to zero (or constant)."""
    from transformers import get_scheduler

    name = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    # The first step of a warm-up has a rate of 0: of one step alone nothing would be learned.
    warmup = min(math.ceil(recipe.warmup_ratio * total_steps), total_steps - 1)
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)
