"""Full fine-tuning: every weight of the base network is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from peftbench.methods.base import Attached, Method

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.models.base import Loaded

FILE = "model.safetensors"


class Full(Method):
    """The reference: what counts as the adapter here is the whole base network."""

    uses_rank: ClassVar[bool] = False

    def attach(self, loaded: Loaded, run: RunConfig) -> Attached:
        """See `Method.attach`; weights are trained in float32."""
        loaded.model.float().requires_grad_(True)
        return Attached(loaded.model, loaded.head)

    def save(self, attached: Attached, folder: Path) -> None:
        """Write the base network to ``model.safetensors`` and the head to ``head.safetensors``."""
        from peftbench.methods import injection

        folder.mkdir(parents=True, exist_ok=True)
        injection.write_tensors(folder / FILE, attached.adapter_state())
        injection.write_head(folder, attached)

    def restore(self, attached: Attached, folder: Path) -> None:
        """See `Method.restore`."""
        from safetensors.torch import load_file

        from peftbench.methods import injection

        attached.model.load_state_dict({**attached.head_state(), **load_file(folder / FILE)}, strict=False)
        injection.read_head(folder, attached)
