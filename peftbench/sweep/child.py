"""Inside a run's process: output to its log, the run, and a record whatever happens that Python can see."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from peftbench.errors import Skip, UserError
from peftbench.record import Record, Status

if TYPE_CHECKING:
    from peftbench.sweep.grid import Point
    from peftbench.sweep.process import OnProgress

REPORTS_PER_SECOND = 5.0


def main(point: Point, log: str, connection: Connection) -> None:
    """The process' entry: everything printed goes to ``log``, progress to ``connection``."""
    from peftbench.sweep.process import lead_own_group

    lead_own_group()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    carry_out(point, _Throttled(connection))
    sys.stdout.flush()
    sys.stderr.flush()


def carry_out(point: Point, on_progress: OnProgress) -> Record:
    """Run one point; whatever is raised becomes the status, reason and traceback of its record."""
    from peftbench.run import execute
    from peftbench.sweep.engine import blank_record

    record = blank_record(point, datetime.now(UTC))
    tracker = point.run.tracker
    try:
        tracker.start(point.run, point.folder)
        execute(point.run, point.folder, record, on_progress)
        record.status = "ok"
    except Exception as error:
        record.status, record.reason, record.traceback = classify(error)
        print(record.traceback or record.reason, file=sys.stderr)
    record.ended = datetime.now(UTC).isoformat()
    record.write(point.folder)
    tracker.finish(record, point.folder)
    return record


def classify(error: Exception) -> tuple[Status, str, str | None]:
    """Status, one-line reason and traceback (None where the reason says all) of what a run raised."""
    from peftbench.sweep.engine import traceback_of

    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Skip):
        return "skipped", reason, None
    if isinstance(error, UserError):
        return "failed", reason, None
    kind: Status = "oom" if _is_out_of_memory(error) else "failed"
    return kind, f"{type(error).__name__}: {reason}"[:500], traceback_of(error)


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises its own class on CUDA and a plain RuntimeError from the CPU allocator.
    name = type(error).__name__
    return name in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)


class _Throttled:
    """Sends progress a few times a second, and the first and last of each phase always."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase == self._last[0] and done < total and now - self._last[1] < 1 / REPORTS_PER_SECOND:
            return
        self._last = (phase, now)
        with suppress(OSError):  # the engine is gone, and so will we be
            self._connection.send((phase, done, total))
