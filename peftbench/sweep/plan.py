"""What is to be done of a sweep: which points are done, which can never run, which are left, and for how long."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import mean

from peftbench.record import FINE, Record
from peftbench.sweep.grid import Point
from peftbench.sweep.outcome import record_of
from peftbench.sweep.progress import clock
from peftbench.sweep.slots import slots_for
from peftbench.sweep.slurm.options import Cluster
from peftbench.sweep.slurm.ticket import Ticket
from peftbench.sweep.sources import changed


@dataclass
class Plan:
    """Which points are done, which can never run, and which are to be run."""

    points: Sequence[Point]
    done: dict[str, Record]
    impossible: dict[str, str]
    before: dict[str, Record] = field(default_factory=dict)
    """Records of points that are to be run again."""

    @classmethod
    def of(cls, points: Sequence[Point], *, pruning: bool = False) -> Plan:
        """Look at the records already there: the same configuration is never run twice by accident.

        Args:
            pruning: whether they are trials of a search that prunes, of which one that was pruned is done.
        """
        plan = cls(points, {}, {})
        for point in points:
            held = record_of(point)
            if held is not None and is_done(held, point, pruning=pruning):
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
        left = sum(record.status not in FINE for record in self.done.values())
        parts += [f"{len(self.done) - left} done already"] if len(self.done) > left else []
        parts += [f"{left} failed before and left alone"] if left else []
        parts += [f"{len(self.impossible)} skipped"] if self.impossible else []
        return f"sweep {self.points[0].run.sweep}: {', '.join(parts)} -> {self.points[0].folder.parent}"

    def warnings(self) -> list[str]:
        """What was done with data or weights that are others now."""
        return changed(self.done.values(), "engine.rerun=true runs all again")

    def lines(self, cluster: Cluster | None = None) -> Iterator[str]:
        """One line a point, for a dry run, with what is to be typed for it alone, and how long the rest will take.

        Args:
            cluster: where they would be carried out; None: here.
        """
        for point in self.points:
            run_id = point.run.run_id
            yield f"{self._state(point)}  {run_id}  {self.impossible.get(run_id, shlex.join(point.overrides))}"
        if self.todo:
            runs = [point.run for point in self.points]
            here = len(slots_for(runs)) if cluster is None else cluster.at_a_time(runs)
            jobs = min(here or len(self.todo), len(self.todo))
            seconds = self.estimate(jobs)
            how = (
                "one after another" if jobs == 1 else f"{jobs} at a time" if here else "all at a time, once they start"
            )
            yield f"about {clock(seconds)}, {how}" if seconds else "no run has finished yet: no estimate of the time"

    def _state(self, point: Point) -> str:
        """What is to become of a point, in four letters."""
        run_id = point.run.run_id
        if (held := self.done.get(run_id)) is not None:
            return "done" if held.status in FINE else "left"
        if run_id in self.impossible:
            return "skip"
        return "run " if Ticket.read(point) is None else "sent"

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


def is_done(record: Record, point: Point, *, pruning: bool = False) -> bool:
    """Whether a record that was there before stands."""
    if point.run.engine.rerun or record.interrupted:
        return False
    if record.status == "pruned":
        return pruning  # elsewhere nobody prunes: what was ended early is run to its end
    return record.status in FINE or not point.run.engine.retry_failed


def duration(record: Record) -> float | None:
    """Seconds from start to end of a run; None also where the clock was put back meanwhile."""
    try:
        took = (datetime.fromisoformat(record.ended) - datetime.fromisoformat(record.started)).total_seconds()
    except ValueError:
        return None
    return took if took >= 0 else None
