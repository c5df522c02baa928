"""Where ``conf/`` and ``sweeps/`` are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

PACKAGE = Path(__file__).resolve().parent.parent


def _folder(name: str) -> Path:
    # The wheel carries both inside the package; a checkout (also an editable install) has them at its top.
    installed = PACKAGE / f"_{name}"
    return installed if installed.is_dir() else PACKAGE.parent / name


CONF = _folder("conf")
SWEEPS = _folder("sweeps")


class SweepsSearchPath(SearchPathPlugin):
    """Makes ``-cn NAME`` find ``sweeps/NAME.yaml``, and the user's own ``./sweeps`` first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra's `SearchPathPlugin`."""
        own = Path.cwd() / "sweeps"
        if own.is_dir() and own.resolve() != SWEEPS.resolve():
            search_path.append(provider="sweeps (here)", path=f"file://{own}")
        search_path.append(provider="sweeps", path=f"file://{SWEEPS}")


def register_plugins() -> None:
    """Tell Hydra of our search path and sweeper; no top-level ``hydra_plugins`` package is needed for it."""
    from peftbench.sweep.plugin import PeftbenchSweeper

    plugins = Plugins.instance()
    plugins.register(SweepsSearchPath)
    plugins.register(PeftbenchSweeper)
