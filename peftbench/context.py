"""What all phases of one run share: its configuration, its record, and the device, precision and seed it runs with."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peftbench.errors import UserError
from peftbench.measuring import precision
from peftbench.measuring.clock import Phases
from peftbench.measuring.heap import keep_freed_memory
from peftbench.training import attention, dropout
from peftbench.training.primitives import KEPT, bound_caches

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.record import Record
    from peftbench.sweep.child import OnProgress


@dataclass
class Context:
    """What all phases of one run share."""

    run: RunConfig
    folder: Path
    record: Record
    on_progress: OnProgress
    device: torch.device
    dtype: torch.dtype
    baseline: int | None = None
    """Memory of the process before the model was loaded, bytes: libraries, data and tokenizer are of no method."""
    clock: Phases = field(default_factory=Phases)

    @property
    def attention(self) -> str:
        """Which of our attention implementations takes the place of SDPA."""
        return attention.NAME if self.own_dropout else attention.PADDED

    @property
    def own_dropout(self) -> bool:
        """Whether dropout on the CPU is ours in place of torch's: it draws from a generator of its own, which cannot
        be traced, and whose state gradient checkpointing does not put back."""
        trainer = self.run.trainer
        return self.device.type == "cpu" and not (trainer.compile or trainer.gradient_checkpointing)

    def autocast(self) -> Any:
        """The precision that every forward pass runs in."""
        return precision.autocast(self.device, self.dtype)()


def resolve_device(name: str) -> torch.device:
    """The device that ``device=`` names; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: CUDA, that GPU of it, or MPS is asked for and not there.
    """
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if name.startswith("cuda") and not cuda:
        raise UserError(f"device={name}: no CUDA device here; write device=auto or device=cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: no Apple GPU here; write device=auto or device=cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"device={name}: the last CUDA device here is cuda:{count - 1}; write that, or device=cuda")
    return device


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, torch (all devices) and our own dropout."""
    random.seed(seed)
    dropout.Bits.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def prepare_process(products: int = KEPT) -> None:
    """What a process that computes tells the libraries below it, before the first product: oneDNN of how many shapes of
    products to keep the kernels, the allocator to use memory again, and transformers that a run's log says what the run
    does."""
    import transformers

    bound_caches(products)
    keep_freed_memory()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
