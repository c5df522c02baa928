"""Hydra's sweeper: hands the grid, or with ``hydra/sweeper=optuna`` the search, of a command to our engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class PeftbenchSweeper(Sweeper):
    """Expands, composes and checks all points first; then the engine carries them out, one process each."""

    def __init__(self, params: DictConfig | None = None, **search: Any) -> None:
        """``search`` are the options that only a search has (``hydra/sweeper=optuna``); without them it is a grid."""
        self.params = params
        self.search = search

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's `Sweeper`."""
        self.hydra_context = hydra_context
        self.config: DictConfig = config

    def sweep(self, arguments: list[str]) -> Any:
        """Carry out the grid or the search; see `peftbench.sweep.command.carry_out` for the exit codes."""
        from peftbench.sweep.command import carry_out
        from peftbench.sweep.grid import grid_points

        assert self.hydra_context is not None
        loader: Any = self.hydra_context.config_loader
        params: Any = self.params
        if self.search:
            from peftbench.sweep import search

            search.carry_out(loader, self.config, {"params": params, **self.search}, arguments)
        else:
            carry_out(grid_points(loader, self.config, params, arguments))
