"""What Hydra loads of ours: the sweeper that hands a grid or a search to our engine, and where named sweeps are.

Hydra takes plugins from the namespace package `hydra_plugins` only, which is why this file lies where it does;
`peftbench.cli.paths.register_plugins` makes it importable.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from peftbench.cli.paths import CONF, SWEEPS
from peftbench.cli.refuse import refuse_ignored
from peftbench.errors import UserError

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

# By the name of Hydra's default and not by an override in conf/config.yaml, which would stand before the one of an
# experiment file (`override /hydra/sweeper: optuna`).
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="basic",
    node=OmegaConf.load(CONF / "hydra" / "sweeper" / "peftbench.yaml"),
    provider="peftbench",
)


class SweepsSearchPath(SearchPathPlugin):
    """Makes ``-cn NAME`` find ``sweeps/NAME.yaml``, and the user's own ``./sweeps`` first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra's `SearchPathPlugin`."""
        own = Path.cwd() / "sweeps"
        if own.is_dir() and own.resolve() != SWEEPS.resolve():
            search_path.append(provider="sweeps (here)", path=f"file://{own}")
        search_path.append(provider="sweeps", path=f"file://{SWEEPS}")


class PeftbenchSweeper(Sweeper):
    """Expands, composes and checks all points first; then the engine carries them out, one process each."""

    def __init__(
        self,
        params: Any = None,
        where: Any = None,
        zip: Any = None,
        **search: Any,
    ) -> None:
        """``search`` are the options that only a search has (``hydra/sweeper=optuna``); without them it is a grid."""
        self.params = params
        self.where = where
        self.zip = zip
        self.search = search

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's `Sweeper`."""
        self.hydra_context = hydra_context
        self.config: DictConfig = config

    def sweep(self, arguments: list[str]) -> Any:
        """Carry out the grid or the search; see `peftbench.sweep.command.carry_out` for the exit codes."""
        from peftbench.sweep.command import carry_out
        from peftbench.sweep.grid import grid_points, meeting
        from peftbench.sweep.slurm.options import chosen
        from peftbench.sweep.sweeper_options import GridOptions

        assert self.hydra_context is not None
        refuse_ignored(self.config.hydra, multirun=True)
        loader: Any = self.hydra_context.config_loader
        launcher = chosen(self.config.hydra.launcher)
        if self.search:
            if "sampler" not in self.search:
                raise UserError(f"hydra.sweeper.{min(self.search)} is for searches: write hydra/sweeper=optuna")
            from peftbench.sweep import search

            if self.zip:
                raise UserError("hydra.sweeper.zip is for grids: a search samples each dimension by itself")
            options = {"params": self.params, "where": self.where, **self.search}
            search.carry_out(loader, self.config, options, arguments, launcher)
        else:
            grid = GridOptions.load({"params": self.params, "where": self.where, "zip": self.zip})
            points = grid_points(loader, self.config, grid.params, arguments, grid.zip)
            kept = meeting(points, grid.where)
            carry_out(kept, left_out=len(points) - len(kept), launcher=launcher)
