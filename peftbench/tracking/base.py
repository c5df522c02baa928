"""What a tracker is: a reader of runs, told of them while they go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.component import Component

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.record import Record


class Tracker(Component):
    """``tracker=none``: the null object, and the base class of all the others.

    A tracker never raises out of these calls because a service is away: a run must not be lost to its tracker.
    """

    def among_several(self) -> str | None:
        """In the engine, before the first of several runs; returns what the user should be told.

        What the environment says of one run is not to be taken for each.
        """
        return None

    def start(self, run: RunConfig, folder: Path) -> None:
        """A run begins; its files are in ``folder``."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Figures of one optimizer step (step curves)."""

    def finish(self, record: Record, folder: Path) -> None:
        """The run has ended and its record is written; also called for runs that failed."""
