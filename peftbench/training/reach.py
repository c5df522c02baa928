"""What of an adapter the loss depends on: PEFT adapts layers too that a network has and does not compute with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from peftbench.errors import UserError, first_of

if TYPE_CHECKING:
    from peftbench.methods.base import Attached


class Reach:
    """Made of the gradients of a first step, without waiting for the device."""

    def __init__(self, attached: Attached) -> None:
        found = {name: p.grad for name, p in attached.trainable() if not attached.is_head(name)}
        self._tensors = len(found)
        self._without = [name for name, gradient in found.items() if gradient is None]
        moved = [gradient.any() for gradient in found.values() if gradient is not None]
        self._moves = torch.stack(moved).any() if moved else torch.tensor(False)

    def check(self) -> None:
        """Refuse to learn the head alone under the name of an adapter; waits for the device.

        Raises:
            UserError: no gradient of the adapter is there, or all are zero.
        """
        if self._tensors and not self._moves:
            raise UserError(
                "nothing of the adapter takes part in the loss, and only the head would be learned: write "
                "method.targets that this network computes with, and leave out what switches the adapter off"
            )

    def notes(self) -> list[str]:
        """What is said of tensors that have no gradient."""
        if not self._without:
            return []
        return [
            f"{len(self._without):,} of the adapter's {self._tensors:,} tensors took no part in the loss of the first "
            f"step, and are counted all the same: {first_of(self._without)}"
        ]
