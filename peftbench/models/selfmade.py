"""Base models that a command of this project has pretrained; what they are is told by a file beside the weights."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from peftbench.errors import UserError
from peftbench.files import share
from peftbench.models.pretrained import Pretrained, weights_hash

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

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
                f"one in minutes: python -m peftbench.pretrain --dataset-path DIR --out {shlex.quote(self.path)}"
            )
        return folder

    def identity(self, config: PretrainedConfig) -> dict[str, Any]:
        """See `Pretrained.identity`; other weights are another revision, and ``note`` says what the base is."""
        folder = Path(self.source)
        known = {"id": self.name, "architecture": config.model_type, "random_weights": False}
        sha = weights_hash(folder)
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        return {**known, "revision": sha[:12], "weights_sha256": sha, **provenance}


def check_room(out: Path) -> None:
    """Find out before hours of learning that the folder ``out`` could not be made.

    Raises:
        UserError: with the system's reason.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"{out} cannot be made ({error.strerror}): write another folder") from error


def write(out: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, provenance: dict[str, Any]) -> None:
    """Everything at once or nothing: a folder that is half written would look like a model."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as holder:
        folder = Path(holder) / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
        share(folder)
        os.replace(folder, out)
