"""What happens with a list of points: planned, carried out, tabulated."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from peftbench import report
from peftbench.errors import UserError
from peftbench.record import FILE, FINE, Record
from peftbench.sweep.engine import Place, carry_out_plan
from peftbench.sweep.grid import Point
from peftbench.sweep.plan import Plan
from peftbench.sweep.slurm.options import Cluster


def carry_out(points: Sequence[Point], *, left_out: int = 0, launcher: Place = None) -> list[Record]:
    """Run what is not done yet, write the report, print the table; returns the record of each point.

    Exits with 1 if any point failed, and with 2 if there was nothing that could run.

    Args:
        left_out: points of the grid that ``hydra.sweeper.where`` has left out.
        launcher: how runs are started, or where.

    Raises:
        UserError: there are no points, ``engine.fail_fast`` is set and one failed, or records cannot be written.
    """
    if not points:
        raise UserError("hydra.sweeper.where leaves out every point" if left_out else "the grid has no points")
    cluster = launcher if isinstance(launcher, Cluster) else None
    if cluster is not None:
        cluster.options.check([point.run for point in points])
    plan = Plan.of(points)
    print(plan.describe() + (f" ({left_out} left out by where)" if left_out else ""), flush=True)
    for line in plan.warnings():
        print(line, flush=True)
    if points[0].run.engine.dry_run:
        for line in plan.lines(cluster):
            print(line)
        return []
    if cluster is not None and plan.todo:
        cluster.check_here()
    try:
        records = carry_out_plan(plan, launcher)
    finally:
        show(points[0].folder.parent, [point.run.run_id for point in points])
    if code := exit_code(record.status for record in records):
        sys.exit(code)
    return records


def show(folder: Path, run_ids: Sequence[str] | None = None) -> None:
    """Write the page of a sweep folder, and print the table of these of its runs (None: of all)."""
    left: set[str] = set()
    with suppress(OSError):  # a folder that cannot be read: whoever could not write to it has said so
        left = {path.parent.name for path in folder.glob(f"*/{FILE}")}
    if not (left if run_ids is None else left & set(run_ids)):
        return
    # The records are what counts, and the report can be made of them at any time.
    later = shlex.join(["python", "-m", "peftbench.report", str(folder)])
    try:
        with _said_if_unwritten(later):
            report.write(folder)
        report.show(folder, only=run_ids)
    except (ImportError, MemoryError) as error:
        print(f"the report cannot be made ({str(error) or type(error).__name__}); later: {later}")
    print(f"Records: {folder}/*/{FILE}")


@contextmanager
def _said_if_unwritten(later: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        print(f"the report cannot be written ({error.strerror}); later: {later}")


def exit_code(statuses: Iterable[str]) -> int:
    """Of a grid or a search. 0: all ok or skipped beside ok ones; 1: something failed; 2: nothing could run."""
    found = set(statuses)
    if found - set(FINE):
        return 1
    return 0 if found & {"ok", "pruned"} else 2
