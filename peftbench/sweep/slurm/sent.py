"""A point whose job is out: what it has left, or what Slurm says became of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from peftbench.record import Record
from peftbench.sweep import outcome
from peftbench.sweep.child import Judge
from peftbench.sweep.claim import Claim
from peftbench.sweep.grid import Point
from peftbench.sweep.slurm.queue import Ending, Key, Queue
from peftbench.sweep.slurm.ticket import Ticket, Wire, batch

PATIENCE = 60.0
"""Seconds in which a shared disk and Slurm's accounting are given to show what has become of a job."""


@dataclass
class Sent:
    """A point whose job is out, or about to be sent."""

    point: Point
    claim: Claim
    judge: Judge | None
    ticket: Ticket
    wire: Wire = field(init=False)
    began: datetime | None = None
    """When it was first seen running."""
    gone: float | None = None
    """Since when the job is not in the queue."""
    attempt: int = 1
    """Which try this is: a job that Slurm ended counts, what is tried again inside a job does not."""
    asked: bool = False
    """Whether Slurm has been asked for the job, and has not answered."""
    lost: bool = False
    """Whether the job ended before its run could, and nobody had asked for that."""

    def __post_init__(self) -> None:
        self.wire = Wire(self.point)

    @property
    def key(self) -> Key:
        """What Slurm is asked for."""
        return self.ticket.name, self.ticket.index

    def own_record(self) -> Record | None:
        """The record that the run has written."""
        record = outcome.record_of(self.point)
        return record if record is not None and outcome.is_own(record) else None

    def end(self, queue: Queue, minutes: int) -> Record | None:
        """The record of a job that is not in the queue, written here if the run could not; None: not known yet.

        Args:
            minutes: how long the job was allowed to take.

        Raises:
            UserError: it cannot be written.
        """
        if self.gone is None:
            self.gone = time.monotonic()
        if (own := self.own_record()) is not None:
            return own
        end = queue.ending(self.ticket)
        late = time.monotonic() - self.gone > PATIENCE
        if end is None and not late:
            return None
        if end is None:
            end = Ending("?", "gone from the queue, and sacct does not know it")
        if end.state == "COMPLETED" and (record := outcome.record_of(self.point)) is not None:
            return record  # the run was ended, and not by Slurm
        if not end.is_whole and not late:
            return None
        self.lost = end.state != "CANCELLED"
        return outcome.finish(
            self.point,
            *end.verdict(minutes),
            started=self.began or datetime.fromisoformat(self.ticket.sent),
            circumstances={"jobs": 1, "attempt": self.attempt, "slurm_job": end.job},
            log=self._log(end.job),
        )

    def _log(self, job: str) -> Path:
        """What Slurm kept of the job's output: of its setup lines, and of what went wrong before the run's own log."""
        return batch(self.point, self.ticket) / f"{job}_0_log.out"


def left(out: Sequence[Sent]) -> Iterator[str]:
    """What becomes of jobs whose engine ends, in sentences; sbatch may have been ended before it had sent some."""
    if sure := [sent for sent in out if not sent.asked]:
        ends = " and ".join(f"scancel --name={name}" for name in sorted({sent.ticket.name for sent in sure}))
        yield f"{len(sure)} jobs go on: the same command waits for them, {ends} ends them"
    if unsure := len(out) - len(sure):
        yield f"{unsure} jobs may have been sent: the same command finds out"
