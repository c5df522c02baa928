"""The engine: carries out the points of a grid, and turns whatever happens into a record."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from statistics import mean

from peftbench.errors import UserError
from peftbench.record import FINE, Record
from peftbench.sweep.carrier import Carrier
from peftbench.sweep.child import Judge
from peftbench.sweep.claim import Claim, tidy
from peftbench.sweep.grid import Point
from peftbench.sweep.orphans import end_orphans
from peftbench.sweep.outcome import blank_record, finish, is_interrupted, record_of
from peftbench.sweep.pool import Pool
from peftbench.sweep.process import Launcher
from peftbench.sweep.progress import Progress, clock
from peftbench.sweep.slots import slots_for
from peftbench.sweep.slurm.options import Cluster
from peftbench.sweep.slurm.ticket import Ticket
from peftbench.sweep.slurm.watch import clear_up

Place = Launcher | Cluster | None
"""How runs are started, or where; None: on this machine, as ``engine.in_process`` says."""

__all__ = ["Plan", "Runner", "blank_record", "carry_out_plan", "runner", "stop_at"]

POLL_SECONDS = 0.5
"""How often is looked after the points that another engine has."""


@dataclass
class Plan:
    """Which points are done, which can never run, and which are to be run."""

    points: Sequence[Point]
    done: dict[str, Record]
    impossible: dict[str, str]
    before: dict[str, Record] = field(default_factory=dict)
    """Records of points that are to be run again."""

    @classmethod
    def of(cls, points: Sequence[Point]) -> Plan:
        """Look at the records already there: the same configuration is never run twice by accident."""
        plan = cls(points, {}, {})
        for point in points:
            held = record_of(point)
            if held is not None and is_done(held, point):
                plan.done[point.run.run_id] = held
            elif reason := point.run.conflict():
                plan.impossible[point.run.run_id] = reason
            elif held is not None:
                plan.before[point.run.run_id] = held
        return plan

    @property
    def todo(self) -> list[Point]:
        """The points to run, in order."""
        return [p for p in self.points if p.run.run_id not in self.done and p.run.run_id not in self.impossible]

    def describe(self) -> str:
        """One line: how many points, and what is to be done with them."""
        parts = [f"{len(self.points)} point{'s' * (len(self.points) != 1)}", f"{len(self.todo)} to run"]
        parts += [f"{len(self.done)} done already"] if self.done else []
        parts += [f"{len(self.impossible)} skipped"] if self.impossible else []
        return f"sweep {self.points[0].run.sweep}: {', '.join(parts)} -> {self.points[0].folder.parent}"

    def lines(self, cluster: Cluster | None = None) -> Iterator[str]:
        """One line a point, for a dry run, and how long the rest will take.

        Args:
            cluster: where they would be carried out; None: here.
        """
        for point in self.points:
            run_id = point.run.run_id
            state = "done" if run_id in self.done else "skip" if run_id in self.impossible else "run "
            state = "sent" if state == "run " and Ticket.read(point) is not None else state
            yield f"{state}  {run_id}  {self.impossible.get(run_id, ' '.join(point.overrides))}"
        if self.todo:
            runs = [point.run for point in self.points]
            here = len(slots_for(runs)) if cluster is None else cluster.at_a_time(runs)
            jobs = min(here or len(self.todo), len(self.todo))
            seconds = self.estimate(jobs)
            how = (
                "one after another" if jobs == 1 else f"{jobs} at a time" if here else "all at a time, once they start"
            )
            yield f"about {clock(seconds)}, {how}" if seconds else "no run has finished yet: no estimate of the time"

    def estimate(self, jobs: int) -> float | None:
        """Seconds that what is to be run will take, by the runs that finished; None if none has.

        A point is expected to take what its setting took with other seeds, or else what runs took on average.
        """
        took: dict[str, list[float]] = {}
        for record in self.done.values():
            if record.status == "ok" and (seconds := duration(record)):
                took.setdefault(str(record.setting), []).append(seconds)
        if not took:
            return None
        overall = mean(mean(times) for times in took.values())
        settings = [str(tuple((k, v) for k, v in p.run.axes.items() if k != "seed")) for p in self.todo]
        return sum(mean(took[setting]) if setting in took else overall for setting in settings) / jobs


def is_done(record: Record, point: Point) -> bool:
    """Whether a record that was there before stands."""
    if point.run.engine.rerun or is_interrupted(record):
        return False
    return record.status in FINE or not point.run.engine.retry_failed


def duration(record: Record) -> float | None:
    """Seconds from start to end of a run."""
    try:
        return (datetime.fromisoformat(record.ended) - datetime.fromisoformat(record.started)).total_seconds()
    except ValueError:
        return None


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
    """
    with Progress(total) as progress, _carrier(points, progress, launcher) as pool:
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
        elif held is not None and not is_interrupted(held) and held != self._before.get(point.run.run_id):
            claim.release()
            self._found.append(held)
        else:
            self._pool.start(point, claim, self._judges.get(point.run.run_id))

    def _leave(self, point: Point, who: str) -> None:
        self._elsewhere.append(point)
        self.progress.elsewhere(point.run.run_id, who)
