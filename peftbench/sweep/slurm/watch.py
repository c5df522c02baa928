"""For an engine that runs points itself: those that were sent to Slurm by an earlier one are waited for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.sweep.outcome import is_own, record_of
from peftbench.sweep.slurm.queue import Queue
from peftbench.sweep.slurm.ticket import FOLDER, Ticket, batches, drop, hand_over, settle

if TYPE_CHECKING:
    from peftbench.sweep.grid import Point

POLL_SECONDS = 5.0
CLEAR_SECONDS = 10.0
"""How long is waited for jobs that have left their record and are just ending."""


class Watch:
    """Looks after points that have a ticket."""

    def __init__(self) -> None:
        self._queue = Queue(POLL_SECONDS)
        self._names: set[str] = set()

    def holder(self, point: Point) -> str | None:
        """The job that has a point, in words; None: none, and none that comes too late will take it any more.

        Raises:
            UserError: there is no Slurm here to be asked.
        """
        if (ticket := Ticket.read(point)) is None:
            return None
        record = record_of(point)
        if record is not None and is_own(record):
            drop(point)
            return None
        self._names.add(ticket.name)
        alive = self._queue.alive(self._names)
        if alive is None:
            return "Slurm, which does not answer"
        if (seen := alive.get((ticket.name, ticket.index))) is not None:
            return f"Slurm job {seen.job}, {seen.state.lower()} (scancel {seen.job} to have it run here)"
        return None if hand_over(point, None) else "a Slurm job"


def clear_up(sweep: Path) -> None:
    """Remove what is kept for jobs that have ended; what cannot be known to have is left to the next engine."""
    if not (sweep / FOLDER).is_dir() or shutil.which("squeue") is None:
        return
    over = set(batches(sweep)) - settle(sweep)
    alive = wait_until_gone(Queue(POLL_SECONDS), over, CLEAR_SECONDS)
    for name in over - (over if alive is None else alive):
        shutil.rmtree(sweep / FOLDER / name, ignore_errors=True)
    with suppress(OSError):
        (sweep / FOLDER).rmdir()


def wait_until_gone(queue: Queue, names: Collection[str], seconds: float) -> set[str] | None:
    """Wait until no job of these names is in the queue; those that are after so long, None if Slurm does not say."""
    deadline = time.monotonic() + seconds
    while (alive := queue.alive(names, fresh=True)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return None if alive is None else {name for name, _ in alive}
