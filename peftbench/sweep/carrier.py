"""What carries points out for the engine: processes of this machine, or the jobs of a cluster."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from peftbench.sweep import outcome
from peftbench.sweep.claim import tidy
from peftbench.sweep.interrupts import Interrupts

if TYPE_CHECKING:
    from peftbench.record import Record
    from peftbench.sweep.child import Judge
    from peftbench.sweep.claim import Claim
    from peftbench.sweep.grid import Point
    from peftbench.sweep.progress import Progress


class Carrier(ABC):
    """Points in, records out. What is still at work at the end of its ``with`` block is ended, or left and named.

    Args:
        points: something of the sweep; its first point says how it is carried out.

    Raises:
        UserError: on entering: the sweep's folder cannot be written.
    """

    def __init__(self, points: Sequence[Point], progress: Progress) -> None:
        self._engine = points[0].run.engine
        self._sweep = points[0].folder.parent
        self._progress = progress
        self._interrupts = Interrupts()
        self._ended: list[Record] = []

    def __enter__(self) -> Self:
        _check_writable(self._sweep)
        self.end_orphans()
        self._interrupts.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._interrupts.ignore()
        try:
            self._close(error, "by Ctrl-C or SIGTERM" if isinstance(error, KeyboardInterrupt) else f"because {error}")
        finally:
            tidy(self._sweep)
            self._interrupts.__exit__(kind, error, at)

    @abstractmethod
    def _close(self, error: BaseException | None, why: str) -> None:
        """End what is at work, ``why`` in its record, or leave it; and release all claims."""

    @property
    @abstractmethod
    def free(self) -> bool:
        """Whether another point can be started."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether there is a record to wait for."""

    @abstractmethod
    def held_by(self, point: Point) -> str | None:
        """Who is at work at a point that we have claimed, in words; None: nobody."""

    @abstractmethod
    def start(self, point: Point, claim: Claim, judge: Judge | None = None) -> None:
        """Start a claimed point, while there is room; the claim is released with its end.

        Args:
            judge: decides after each validation whether the run goes on.

        Raises:
            UserError: its folder cannot be written.
        """

    @abstractmethod
    def wait(self, seconds: float | None = None) -> list[Record]:
        """Records of runs that have ended; waits for the first one, at most ``seconds``.

        Raises:
            KeyboardInterrupt: the user wants to stop.
            UserError: a record cannot be written.
        """

    def end_orphans(self) -> None:  # noqa: B027
        """End what an engine that was killed has left behind: it may hold the claim of a point."""


def _check_writable(folder: Path) -> None:
    """Find out before the first run that nothing could be written.

    Raises:
        UserError: with the reason, and what to write instead.
    """
    with outcome.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # It has no name, so nothing can be left of it.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"is there room?")
