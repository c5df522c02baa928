"""The engine: carries out points, each in a process of its own, and turns whatever happens into a record."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from peftbench.errors import UserError
from peftbench.record import Record, Status, read, write_atomically
from peftbench.sweep.grid import Point
from peftbench.sweep.process import Exit, Worker
from peftbench.sweep.progress import Progress

LOG = "run.log"


@dataclass
class Plan:
    """Which points are done, which can never run, and which are to be run."""

    points: Sequence[Point]
    done: dict[str, Record]
    impossible: dict[str, str]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Plan:
        """Look at the records already there: the same configuration is never run twice by accident."""
        done, impossible = {}, {}
        for point in points:
            held = read(point.folder)
            if held is not None and held.config_hash == point.run.hash and _is_done(held, point):
                done[point.run.run_id] = held
            elif reason := point.run.conflict():
                impossible[point.run.run_id] = reason
        return cls(points, done, impossible)

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

    def lines(self) -> Iterator[str]:
        """One line a point, for a dry run."""
        for point in self.points:
            run_id = point.run.run_id
            state = "done" if run_id in self.done else "skip" if run_id in self.impossible else "run "
            yield f"{state}  {run_id}  {self.impossible.get(run_id, ' '.join(point.overrides))}"


def _is_done(record: Record, point: Point) -> bool:
    if point.run.engine.rerun:
        return False
    return record.status in ("ok", "skipped", "pruned") or not point.run.engine.retry_failed


def carry_out_plan(plan: Plan) -> list[Record]:
    """Run every point of the plan that is to be run; returns the records of all points in order.

    Raises:
        UserError: a run failed and ``engine.fail_fast`` is set.
    """
    records = dict(plan.done)
    for point in plan.points:
        if reason := plan.impossible.get(point.run.run_id):
            records[point.run.run_id] = _finish(point, "skipped", reason)
    with Worker.pool(plan.points[0].run.engine.in_process) as worker, Progress(len(plan.todo)) as progress:
        for point in plan.todo:
            record = carry_out_point(point, worker, progress)
            records[point.run.run_id] = record
            progress.done(record)
            if record.status not in ("ok", "skipped") and point.run.engine.fail_fast:
                raise UserError(f"engine.fail_fast: {record.run_id} is {record.status}: {record.reason}")
    return [records[point.run.run_id] for point in plan.points]


def carry_out_point(point: Point, worker: Worker, progress: Progress) -> Record:
    """Run one point and return its record, whatever became of its process."""
    point.folder.mkdir(parents=True, exist_ok=True)
    (point.folder / "record.json").unlink(missing_ok=True)
    _write_config(point)
    progress.begin(point.run.run_id)
    started = datetime.now(UTC)
    try:
        end = worker.run(point, point.folder / LOG, point.run.engine.timeout, progress.update)
    except KeyboardInterrupt:
        _finish(point, "killed", "interrupted by the user", started=started)
        raise
    record = read(point.folder)
    if record is not None and record.config_hash == point.run.hash:
        return record
    return _finish(point, *_verdict(end), started=started)


def _verdict(end: Exit) -> tuple[Status, str]:
    """Status and reason of a process that left no record."""
    if end.timed_out:
        return "killed", "the run took longer than engine.timeout and was ended"
    if end.signal is not None:
        return "killed", f"the process was ended by {end.signal} (out of memory, if nobody sent it); see {LOG}"
    return "failed", f"the process ended with exit code {end.code} and left no record; see {LOG}"


def _finish(point: Point, status: Status, reason: str, *, started: datetime | None = None) -> Record:
    """Write the record of a point that could not write its own."""
    record = blank_record(point, started or datetime.now(UTC))
    record.status, record.reason, record.ended = status, reason, datetime.now(UTC).isoformat()
    _write_config(point)
    record.write(point.folder)
    return record


def blank_record(point: Point, started: datetime) -> Record:
    """A record of this point with nothing measured yet."""
    run = point.run
    return Record(
        run_id=run.run_id,
        sweep=run.sweep,
        status="failed",
        config=run.dump(),
        config_hash=run.hash,
        axes=run.axes,
        environment={"overrides": list(point.overrides)},
        started=started.isoformat(),
    )


def _write_config(point: Point) -> None:
    import yaml

    write_atomically(point.folder / "config.yaml", yaml.safe_dump(point.run.dump(), sort_keys=False))


def traceback_of(error: BaseException) -> str:
    """The traceback as text, for the record and the log."""
    return "".join(traceback.format_exception(error))
