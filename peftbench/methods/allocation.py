"""The training hook of PEFT tuners that move their budget while they train (AdaLoRA; Zhang et al., ICLR 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from peftbench.errors import UserError
from peftbench.methods.injection import ADAPTER
from peftbench.methods.peft import nothing_to_take
from peftbench.training.hooks import Hook

if TYPE_CHECKING:
    from peft import PeftModel


class Allocation(Hook):
    """Calls a tuner's ``update_and_allocate`` after every optimizer step, while its gradients are still there.

    Where the tuner plans over ``total_step`` it is told how many there are; unless ``tinit`` or ``tfinal`` is given,
    the budget is held for the first tenth of them and final for the last two fifths.
    """

    def __init__(self, model: PeftModel) -> None:
        self._tuner: Any = model.base_model
        self._config: Any = model.peft_config[ADAPTER]
        self._planned = hasattr(self._config, "total_step")

    def start(self, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        """Fix the schedule.

        Raises:
            UserError: there are too few steps for it, or no ranks to take away.
        """
        if not self._planned:
            return
        config = self._config
        if reason := nothing_to_take(vars(config)):
            raise UserError(reason)
        config.total_step = total_steps
        if config.tinit == config.tfinal == 0:
            config.tinit, config.tfinal = total_steps // 10, 2 * total_steps // 5
        if config.tinit + config.tfinal + 2 > total_steps:
            raise UserError(
                f"method.args: tinit={config.tinit} and tfinal={config.tfinal} leave no step of {total_steps} to move "
                "the budget in; write smaller ones, or train for more steps"
            )

    def penalty(self) -> torch.Tensor | None:
        """``w mean(|P'P - I|_F)`` over all A and B, which PEFT adds only to a loss that the network computes itself."""
        weight = getattr(self._config, "orth_reg_weight", 0)
        return weight * torch.stack(list(map(_deviation, self._singular_vectors()))).mean() if weight else None

    def _singular_vectors(self) -> list[torch.Tensor]:
        """Every A (r, k) and every B transposed (r, d)."""
        named = list(self._tuner.model.named_parameters())
        right = [p for name, p in named if f"lora_A.{ADAPTER}" in name]
        return right + [p.T for name, p in named if f"lora_B.{ADAPTER}" in name]

    def after_step(self, step: int) -> None:
        """See `Hook.after_step`; PEFT counts steps from one here, or its last allocation would never come."""
        self._tuner.update_and_allocate(step + 1)

    def selectable(self, step: int) -> bool:
        """Whether the budget is final: an earlier checkpoint would be saved with the later, smaller ranks."""
        return not self._planned or step + 1 >= self._config.total_step - self._config.tfinal


def _deviation(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(rows @ rows.T - torch.eye(rows.shape[0], device=rows.device, dtype=rows.dtype))
