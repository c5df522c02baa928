"""Where ``conf/`` and ``sweeps/`` are, in a checkout and in an installed wheel."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def _folder(name: str) -> Path:
    # The wheel carries both inside the package; a checkout (also an editable install) has them at its top.
    installed = PACKAGE / f"_{name}"
    return installed if installed.is_dir() else PACKAGE.parent / name


CONF = _folder("conf")
SWEEPS = _folder("sweeps")


def register_plugins() -> None:
    """Make `hydra_plugins.peftbench_plugins` importable, before Hydra looks for plugins."""
    folder = str(PACKAGE / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)
