"""Hydra's sweeper: hands the grid of ``-m`` or of a named sweep to our engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class PeftbenchSweeper(Sweeper):
    """Expands, composes and checks all points first; then the engine carries them out, one process each."""

    def __init__(self, params: DictConfig | None = None) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's `Sweeper`."""
        self.hydra_context = hydra_context
        self.config: DictConfig = config

    def sweep(self, arguments: list[str]) -> Any:
        """Carry out the grid; see `peftbench.sweep.command.carry_out` for the exit codes."""
        from peftbench.sweep.command import carry_out
        from peftbench.sweep.grid import grid_points

        assert self.hydra_context is not None
        params: Any = self.params
        carry_out(grid_points(self.hydra_context.config_loader, self.config, params, arguments))  # type: ignore[arg-type]
