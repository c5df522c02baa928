"""Base models that a command of this project has pretrained; what they are is told by a file beside the weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from peftbench.errors import UserError
from peftbench.models.pretrained import Pretrained, weights_hash

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PROVENANCE = "provenance.json"


class SelfMade(Pretrained):
    """What ``python -m peftbench.pretrain`` wrote to the folder ``path``."""

    unused: ClassVar[tuple[str, ...]] = ("id", "revision")
    id: str = ""
    path: str

    @property
    def source(self) -> str:
        """The folder.

        Raises:
            UserError: there is no such model; the message has the command that makes it.
        """
        folder = os.path.expanduser(self.path)
        if not os.path.isfile(os.path.join(folder, PROVENANCE)):
            raise UserError(
                f"model={self.name}: {self.path} holds no model with its {PROVENANCE}; write model.path=DIR, or make "
                f"one in minutes: python -m peftbench.pretrain --dataset-path DIR --out {self.path}"
            )
        return folder

    def identity(self, config: PretrainedConfig) -> dict[str, Any]:
        """See `Pretrained.identity`; other weights are another revision, and ``note`` says what the base is."""
        folder = Path(self.source)
        known = {"id": self.name, "architecture": config.model_type, "random_weights": False}
        sha = weights_hash(folder)
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        return {**known, "revision": sha[:12], "weights_sha256": sha, **provenance}
