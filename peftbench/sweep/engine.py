"""The engine: carries out the points of a grid, and turns whatever happens into a record."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from peftbench.errors import UserError
from peftbench.files import cache_folder
from peftbench.record import FINE, Record
from peftbench.sweep.carrier import Carrier
from peftbench.sweep.child import Judge
from peftbench.sweep.claim import Claim, tidy
from peftbench.sweep.grid import Point
from peftbench.sweep.orphans import end_orphans
from peftbench.sweep.outcome import finish, record_of
from peftbench.sweep.plan import Plan
from peftbench.sweep.pool import Pool
from peftbench.sweep.process import Launcher
from peftbench.sweep.progress import Progress
from peftbench.sweep.slurm.options import Cluster
from peftbench.sweep.slurm.watch import clear_up

Place = Launcher | Cluster | None
"""How runs are started, or where; None: on this machine, as ``engine.in_process`` says."""

POLL_SECONDS = 0.5
"""How often is looked after the points that another engine has."""


def carry_out_plan(plan: Plan, launcher: Place = None) -> list[Record]:
    """Run every point of the plan that is to be run; returns the records of all points in order.

    Raises:
        UserError: a run failed and ``engine.fail_fast`` is set, or a record cannot be written.
        KeyboardInterrupt: the user wants to stop; what was running is recorded as such.
    """
    records = dict(plan.done)
    for point in plan.points:
        if reason := plan.impossible.get(point.run.run_id):
            records[point.run.run_id] = finish(point, "skipped", reason)
    if plan.todo:
        with runner(plan.points, len(plan.todo), plan.before, launcher) as running:
            for point in plan.todo:
                running.submit(point)
            while running.busy:
                for record in running.wait():
                    records[record.run_id] = record
                    stop_at(record, plan.points[0])
    else:
        # All that an engine that was killed had left to do may have been to tidy up.
        end_orphans()
        tidy(plan.points[0].folder.parent)
        clear_up(plan.points[0].folder.parent)
    return [records[point.run.run_id] for point in plan.points]


def stop_at(record: Record, point: Point) -> None:
    """Stop at what is not fine, if ``engine.fail_fast`` of ``point`` says so.

    Raises:
        UserError: the reason of the run.
    """
    if record.status not in FINE and point.run.engine.fail_fast:
        raise UserError(f"engine.fail_fast: {record.run_id} is {record.status}: {record.reason}")


@contextmanager
def runner(
    points: Sequence[Point], total: int, before: Mapping[str, Record] | None = None, launcher: Place = None
) -> Iterator[Runner]:
    """What carries out points while the block lasts; what still runs at its end is ended, on this machine.

    Args:
        points: points of the sweep; the first one says how they are carried out.
        total: how many there will be.
        before: records that are there and do not count, by run id.
        launcher: how runs are started, or where.

    Raises:
        UserError: the cache that all runs use can be nobody's, or the carrier cannot begin.
    """
    cache_folder()  # asked for what it raises
    with Progress(total) as progress, _carrier(points, progress, launcher) as pool:
        if max(total, len(points)) > 1 and (said := points[0].run.tracker.among_several()):
            progress.say(said)
        yield Runner(pool, progress, before or {})
    clear_up(points[0].folder.parent)


def _carrier(points: Sequence[Point], progress: Progress, launcher: Place) -> Carrier:
    if not isinstance(launcher, Cluster):
        return Pool(points, progress, launcher)
    from peftbench.sweep.slurm.pool import SlurmPool

    return SlurmPool(points, progress, launcher)


class Runner:
    """Points in, records out: in order, as slots become free; points that another engine has are waited for."""

    def __init__(self, pool: Carrier, progress: Progress, before: Mapping[str, Record]) -> None:
        self._pool = pool
        self._before = before
        self._todo: deque[Point] = deque()
        self._judges: dict[str, Judge] = {}
        self._elsewhere: list[Point] = []
        self._found: list[Record] = []
        self.progress = progress

    @property
    def free(self) -> bool:
        """Whether another point would be started at once."""
        return self._pool.free and not self._todo

    @property
    def busy(self) -> bool:
        """Whether there is a record to wait for."""
        return bool(self._todo or self._elsewhere or self._found or self._pool.busy)

    def submit(self, point: Point, judge: Judge | None = None) -> None:
        """Carry out a point, now or when there is room; ``judge`` decides after each validation if it goes on."""
        if judge is not None:
            self._judges[point.run.run_id] = judge
        self._todo.append(point)
        self._fill()

    def wait(self) -> list[Record]:
        """The next records; may be none, while another engine has what is left.

        Raises:
            KeyboardInterrupt: the user wants to stop.
            UserError: a record cannot be written.
        """
        self._fill()
        if not self._found:
            self._found = self._pool.wait(POLL_SECONDS if self._elsewhere else None)
        if self._elsewhere and not self._todo:
            self._pool.end_orphans()
            self._todo.extend(self._elsewhere)
            self._elsewhere.clear()
        found, self._found = self._found, []
        for record in found:
            self.progress.done(record)
        return found

    def _fill(self) -> None:
        while self._todo and self._pool.free:
            self._start(self._todo.popleft())

    def _start(self, point: Point) -> None:
        """Start a run of the point, unless another engine has it, or has left its record since we looked."""
        claim = Claim.take(point)
        if claim is None:
            self._leave(point, "another engine")
            return
        try:
            who = self._pool.held_by(point)
        except UserError:
            claim.release()
            raise
        held = record_of(point)
        if who is not None:
            claim.release()
            self._leave(point, who)
        elif held is not None and held != self._before.get(point.run.run_id) and self._stands(held):
            claim.release()
            self._found.append(held)
        else:
            self._pool.start(point, claim, self._judges.get(point.run.run_id))

    def _stands(self, record: Record) -> bool:
        """Whether a run that another engine has left is over; of one that its search pruned, whether we prune too."""
        return not record.interrupted and (record.status != "pruned" or record.run_id in self._judges)

    def _leave(self, point: Point, who: str) -> None:
        self._elsewhere.append(point)
        self.progress.elsewhere(point.run.run_id, who)
