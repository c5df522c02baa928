"""What every method that PEFT injects into the base network has in common.

Nothing heavy is imported here; `peftbench.methods.injection` does the work when a run starts.

On disk an adapter is PEFT's own format (``adapter_config.json``, ``adapter_model.safetensors``) and holds the adapter
alone; the task head is in ``head.safetensors``, under its names in the base network. To use both elsewhere::

    base.load_state_dict(load_file(folder / "head.safetensors"), strict=False)
    model = PeftModel.from_pretrained(base, folder)
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from peftbench.methods.base import Attached, Factor, Method

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from torch import nn

    from peftbench.config import RunConfig
    from peftbench.methods.injection import Sites
    from peftbench.models.base import Loaded

Targets = str | tuple[str, ...]


class Tuner(Method):
    """A method whose layers PEFT puts in place of some of the base network's."""

    targets: Targets = "attention"
    """Which layers are adapted: ``attention`` (the model's own choice), ``all-linear`` or a list of module names."""

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, value: Targets) -> Targets:
        if isinstance(value, str) and value not in ("attention", "all-linear"):
            raise ValueError(f"write attention, all-linear, or a list of module names such as [{value}]")
        if not value or not all(value):
            raise ValueError("name at least one module, such as [q_lin,v_lin]")
        return value

    @abstractmethod
    def peft_config(self, sites: Sites, run: RunConfig) -> PeftConfig:
        """The PEFT configuration that puts this method's layers at ``sites``.

        Raises:
            UserError: PEFT has no such configuration.
        """

    def prepare(self, model: PeftModel, run: RunConfig) -> None:
        """Change the layers that PEFT has put in place, before they are used."""
        return

    def factors(self, model: PeftModel) -> list[Factor]:
        """The low-rank pairs that a sparsity may change; none unless the method is `low_rank`."""
        return []

    def sites(self, loaded: Loaded) -> Sites:
        """The layers that ``targets`` means in this network.

        Raises:
            UserError: a name is in no module; the message lists those that exist.
        """
        from peftbench.methods import injection

        return injection.find_sites(loaded, self.targets)

    def attach(self, loaded: Loaded, run: RunConfig) -> Attached:
        """See `Method.attach`: inject, freeze the base, leave the head trainable (in float32)."""
        from peftbench.methods import injection

        config = self.peft_config(self.sites(loaded), run)
        model = injection.inject(loaded, config, self.name)
        self.prepare(model, run)
        return Attached(model, loaded.head, self.factors(model))

    def export(self, model: PeftModel) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
        """Configuration and tensors of the adapter as they are to be shipped."""
        from peftbench.methods import injection

        return injection.export(model)

    def admit(self, model: PeftModel, config: PeftConfig, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Bring ``model`` to the shapes of a saved ``state``; returns the tensors to load into it."""
        return state

    def save(self, attached: Attached, folder: Path) -> None:
        """See `Method.save` and the top of this module."""
        from peftbench.methods import injection

        injection.write_adapter(folder, *self.export(attached.model))  # type: ignore[arg-type]
        injection.write_head(folder, attached)

    def restore(self, attached: Attached, folder: Path) -> None:
        """See `Method.restore`."""
        from peftbench.methods import injection

        model: Any = attached.model
        config, state = injection.read_adapter(folder)
        injection.load_adapter(model, self.admit(model, config, state))
        injection.read_head(folder, attached)
        attached.factors = self.factors(model)

    def merge(self, attached: Attached) -> nn.Module | None:
        """The base network with the update folded in, or None where PEFT cannot; uses ``attached`` up."""
        from peftbench.methods import injection

        return injection.merge(attached.model)  # type: ignore[arg-type]


class RankedTuner(Tuner):
    """A method that trains a pair ``B A`` of rank r at every adapted layer."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of the trained branch."""

    def factors(self, model: PeftModel) -> list[Factor]:
        """See `Tuner.factors`."""
        from peftbench.methods.factors import pairs

        return list(pairs(model)) if self.low_rank else []
