"""What a fine-tuning method is: how the base is loaded, what is trained, what is saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from peftbench.component import Component
from peftbench.errors import UserError
from peftbench.training.hooks import Hook

if TYPE_CHECKING:
    import torch
    from torch import nn

    from peftbench.config import RunConfig
    from peftbench.models.base import Loaded


class Factor(ABC):
    """One low-rank pair of one adapted layer, ``B A`` with A: (r, k) and B: (d, r), as the sparsities see it."""

    layer: str
    """Dotted name of the adapted layer."""

    @property
    @abstractmethod
    def a(self) -> nn.Parameter:
        """A, shape (r, k)."""

    @property
    @abstractmethod
    def b(self) -> nn.Parameter:
        """B, shape (d, r)."""

    @abstractmethod
    def replace(self, a: nn.Parameter, b: nn.Parameter) -> None:
        """Put A: (r', k) and B: (d, r') in place of the present pair; the scaling ``s`` stays what it was."""


@dataclass
class Attached:
    """A model with a method attached, ready to train.

    ``head`` names (prefixes of parameter names) are the task head; every other trainable parameter is the adapter.
    """

    model: nn.Module
    head: tuple[str, ...] = ()
    factors: list[Factor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise a UserError if the head is one text, each letter of which would be a name."""
        if isinstance(self.head, str):
            raise UserError(f"the head of what is attached is {self.head!r}: write a tuple of names, ({self.head!r},)")

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that is trained."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def is_head(self, name: str) -> bool:
        """Whether a parameter name belongs to the task head (after any wrapper's prefixes)."""
        return any(part in f".{name}." for part in (f".{head}." for head in self.head))

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """Trained tensors that are not the head, by parameter name (detached, not copied)."""
        return {name: p.detach() for name, p in self.trainable() if not self.is_head(name)}

    def head_state(self) -> dict[str, torch.Tensor]:
        """Trained tensors of the task head, by parameter name (detached, not copied)."""
        return {name: p.detach() for name, p in self.trainable() if self.is_head(name)}


class Method(Component, ABC):
    """One fine-tuning method. Subclasses are one file in this folder and one YAML in ``conf/method``."""

    uses_rank: ClassVar[bool] = True
    """Whether the ``rank`` axis means anything to this method."""
    uses_alpha: ClassVar[bool] = True
    """Whether the update is scaled by ``alpha / r``, where there is a rank."""
    low_rank: ClassVar[bool] = False
    """Whether `attach` fills ``Attached.factors``, so that a sparsity can be composed onto it."""
    frozen_branch: ClassVar[bool] = False
    """Whether an adapted layer is ``frozen(x) + trained(x)`` by PEFT's LoRA layer, the frozen layer a module of its own
    whose output may be approximated."""

    def conflict(self, run: RunConfig) -> str | None:
        """Why this method cannot be combined with the rest of ``run``, or None. Called while composing: no torch."""
        if run.sparsity.active and not self.low_rank:
            return f"method={self.name} has no low-rank factors to make sparse: write sparsity=none"
        return None

    def load_kwargs(self, run: RunConfig, head: tuple[str, ...], dtype: torch.dtype) -> Mapping[str, Any]:
        """Extra arguments for ``from_pretrained`` (a quantization config, say).

        Args:
            head: module names of the task head, which must stay trainable.
            dtype: the dtype that matrix products are computed in.
        """
        return {}

    @abstractmethod
    def attach(self, loaded: Loaded, run: RunConfig) -> Attached:
        """Freeze ``loaded.model``, add what this method trains, and leave the head trainable.

        Raises:
            UserError: the targets are not in this model.
        """

    def hook(self, attached: Attached) -> Hook:
        """The training hook that the method itself needs (AdaLoRA moves its rank budget); most need none."""
        return Hook()

    @abstractmethod
    def save(self, attached: Attached, folder: Path) -> None:
        """Write the adapter (and nothing of the frozen base) to ``folder`` in the format that would be shipped.

        Files whose name starts with ``head`` count as the head, all others as the adapter.
        """

    @abstractmethod
    def restore(self, attached: Attached, folder: Path) -> None:
        """Load what `save` wrote into a freshly attached model, so that both give the same outputs."""

    def merge(self, attached: Attached) -> nn.Module | None:
        """A model for inference with the update folded into the base weights, or None if the method cannot merge.

        ``attached`` may be used up by it.
        """
        return None
