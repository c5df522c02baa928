"""The pool: as many runs at a time as there are slots, each watched until it has left a record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from peftbench.errors import UserError
from peftbench.record import FINE, INTERRUPTED, Record, Status
from peftbench.sweep import outcome
from peftbench.sweep.carrier import Carrier
from peftbench.sweep.child import Job, Judge
from peftbench.sweep.claim import Claim
from peftbench.sweep.fork_server import ForkServer
from peftbench.sweep.grid import Point
from peftbench.sweep.orphans import end_orphans
from peftbench.sweep.process import InProcess, Launcher, Process, wait_for
from peftbench.sweep.progress import Progress
from peftbench.sweep.slots import Slot, slots_for
from peftbench.sweep.slurm.watch import Watch

LOOK_SECONDS = 5.0
"""How often runs that report nothing are looked after: their fork server may have been stopped."""


@dataclass
class _Run:
    job: Job
    claim: Claim
    judge: Judge | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    deadline: float = float("inf")
    process: Process | None = None
    begun: bool = False
    """Whether anything of it is on disk; before that an end leaves nothing."""

    @property
    def point(self) -> Point:
        return self.job.point

    def finish(self, status: Status, reason: str) -> Record:
        """Write the record that the run has not written."""
        return outcome.finish(self.point, status, reason, started=self.started, circumstances=self.job.circumstances)


class Pool(Carrier):
    """Runs of this machine, at most one a slot.

    Args:
        points: see `Carrier`.
        launcher: how runs are started; None: as ``engine.in_process`` says.
        slots: what they may use; None: as ``engine.jobs`` says.

    Raises:
        UserError: a run names the GPU of others.
    """

    def __init__(
        self,
        points: Sequence[Point],
        progress: Progress,
        launcher: Launcher | None = None,
        slots: Sequence[Slot] | None = None,
    ) -> None:
        super().__init__(points, progress)
        self._launcher = launcher or (InProcess() if self._engine.in_process else ForkServer())
        self._slots = slots or slots_for([point.run for point in points])
        self._cluster = Watch()
        self._free = list(reversed(self._slots))
        self._runs: list[_Run] = []
        self._warm = False

    @property
    def free(self) -> bool:
        """See `Carrier.free`."""
        return bool(self._free)

    @property
    def busy(self) -> bool:
        """See `Carrier.busy`."""
        return bool(self._runs or self._ended)

    def held_by(self, point: Point) -> str | None:
        """See `Carrier.held_by`: a Slurm job, sent by an engine that has ended.

        Raises:
            UserError: it cannot be asked for here.
        """
        return self._cluster.holder(point)

    def end_orphans(self) -> None:
        """See `Carrier.end_orphans`."""
        if ended := end_orphans():
            self._progress.say(f"{ended} process{'es' * (ended != 1)} of an engine that was killed: ended")

    def start(self, point: Point, claim: Claim, judge: Judge | None = None) -> None:
        """See `Carrier.start`."""
        slot, launcher = self._free.pop(), self._launcher
        job = Job(point, slot, len(self._slots), 1, judge is not None, launcher.execute, launcher.circumstances)
        self._launch(_Run(job, claim, judge))

    def wait(self, seconds: float | None = None) -> list[Record]:
        """See `Carrier.wait`."""
        limit = None if seconds is None else time.monotonic() + seconds
        while not self._ended:
            with self._interrupts.allowed():
                wait_for([run.process for run in self._runs if run.process is not None], self._patience(limit))
            for run in list(self._runs):
                self._look_after(run)
            if limit is not None and time.monotonic() >= limit:
                break
        ended, self._ended = self._ended, []
        return ended

    def _patience(self, limit: float | None) -> float:
        """Seconds until the next thing that happens by itself, or the next look."""
        moments = [time.monotonic() + LOOK_SECONDS, *(run.deadline for run in self._runs)]
        moments += [] if limit is None else [limit]
        return max(0.0, min(moments) - time.monotonic())

    def _launch(self, run: _Run) -> None:
        self._runs.append(run)
        if not self._warm:
            self._launcher.warm(self._interrupts)
            self._warm = True
        run.begun = True
        if said := outcome.begin(run.point):
            self._progress.say(said)
        run_id = run.point.run.run_id
        self._progress.begin(run_id)
        if (timeout := run.point.run.engine.timeout) is not None:
            run.deadline = time.monotonic() + timeout
        report = partial(self._progress.update, run_id)
        run.process = self._launcher.start(run.job, run.claim, report, run.judge)

    def _look_after(self, run: _Run) -> None:
        """Take note of a run that has ended, and end one that has had its time."""
        assert run.process is not None
        end = run.process.exit()
        if end is None and time.monotonic() >= run.deadline:
            run.process.kill(timed_out=True)
            end = run.process.exit() or outcome.Exit(timed_out=True)
        if end is None:
            return
        record = outcome.record_of(run.point) or run.finish(*outcome.verdict(end))
        self._runs.remove(run)
        if record.status not in FINE and run.job.attempt <= run.point.run.engine.retries:
            again = replace(run.job, attempt=run.job.attempt + 1)
            self._progress.say(f"{record.run_id} is {record.status}, try {again.attempt} follows: {record.reason}")
            self._launch(_Run(again, run.claim, run.judge))
            return
        self._free.append(run.job.slot)
        run.claim.release()
        self._ended.append(record)

    def _close(self, error: BaseException | None, why: str) -> None:
        """See `Carrier._close`: every run is ended, and its record says that this was not its fault."""
        for run in self._runs:
            if run.process is not None:
                run.process.kill()
        for run in self._runs:
            # On a full disk there will be no record, and then too the point is run again.
            with suppress(UserError):
                if run.begun and outcome.record_of(run.point) is None:
                    run.finish("killed", f"{INTERRUPTED} {why}")
            run.claim.release()
        self._runs.clear()
