"""Inside a run's process: output to its log, the run, and a record whatever happens that Python can see."""

from __future__ import annotations

import itertools
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import Pruned, Skip, UserError
from peftbench.glossary import VALIDATION
from peftbench.record import IN_PROCESS, SOURCES, Record, Status
from peftbench.sweep.orphans import end_with_parent
from peftbench.sweep.outcome import LOG, blank_record, tail
from peftbench.sweep.slots import Slot
from peftbench.sweep.sources import stamps

if TYPE_CHECKING:
    from peftbench.sweep.grid import Point

OnProgress = Callable[..., None]
"""Called with (phase, steps done, steps in all) and, while training, with the figures of the step (may be none)."""
Judge = Callable[[int, dict[str, float]], str | None]
"""Why a run should be ended early, after its n-th validation (from 1) with these figures; None: it goes on."""
REPORTS_PER_SECOND = 5.0
EXECUTE = "peftbench.run:execute"


@dataclass(frozen=True)
class Job:
    """One try at one point."""

    point: Point
    slot: Slot = field(default_factory=Slot)
    jobs: int = 1
    """Runs that go on at a time."""
    attempt: int = 1
    judged: bool = False
    """Whether somebody decides after each validation if the run goes on."""
    execute: str = EXECUTE
    """``module:function`` of what a run is; see `peftbench.run.execute`."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """What the record says of the place."""

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the record says of how it was carried out."""
        return {"jobs": self.jobs, "attempt": self.attempt, **self.where}

    @property
    def log(self) -> Path:
        """Where the process' output goes."""
        return self.point.folder / LOG


def main(job: Job, connection: Connection, claim: Any) -> None:
    """The process' entry: everything printed goes to the log, progress to ``connection``.

    Args:
        claim: the descriptor of the point's lock; it stays open for as long as we live.
    """
    lead_own_group()
    claim.detach()
    handle = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    # New ones: where the engine's output was closed from the beginning there are none.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, "utf-8", "replace", closefd=False) for number in (1, 2))
    job.slot.occupy()
    try:
        progress: OnProgress = _Throttled(connection)
        carry_out(job, judging(_judge(connection), progress) if job.judged else progress)
    except OSError as error:
        connection.send(f"the record cannot be written ({error.strerror})")
        raise
    sys.stdout.flush()
    sys.stderr.flush()


OUT_OF_MEMORY = ("can't allocate memory", "error: out of memory", "_STATUS_ALLOC_FAILED")
"""What errors say that are of no class of their own: torch's allocator on the CPU, the driver, cuBLAS and cuDNN."""
NO_BF16 = "; a network that cannot compute in bf16 can in trainer.precision=fp32"


def lead_own_group() -> None:
    """Apart from the terminal's Ctrl-C (the engine decides), and gone when the fork server is gone."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    # The engine may have ended before the fork server was told to end with it.
    if (parent := parent_process()) is not None and not parent.is_alive():
        os._exit(1)


def carry_out(job: Job, on_progress: OnProgress) -> Record:
    """Run one point; whatever is raised becomes the status, reason and traceback of its record."""
    point = job.point
    record = blank_record(point, datetime.now(UTC))
    record.environment |= {**job.circumstances, SOURCES: stamps(point.run)}
    reports = _Reports(on_progress)
    tracker = point.run.tracker
    try:
        execute = pkgutil.resolve_name(job.execute)
        tracker.start(point.run, point.folder)
        execute(point.run, point.folder, record, reports)
        if IN_PROCESS in job.where:
            _leave_out_memory(record)
        _note_endless(record)
        record.status = "ok"
    except (Exception, SystemExit) as error:
        record.status, record.reason, record.traceback = classify(error)
        print(record.traceback or record.reason, file=sys.stderr, flush=True)
        record.log_tail = tail(job.log)
        record.history = record.history or reports.history
    record.ended = datetime.now(UTC).isoformat()
    record.write(point.folder)
    tracker.finish(record, point.folder)
    return record


def _leave_out_memory(record: Record) -> None:
    """Libraries are loaded beside the run, and the heap has kept what came before: what it needs, nobody can tell."""
    if record.metrics.get("memory/source") == "process_rss":
        record.metrics = {name: value for name, value in record.metrics.items() if not name.startswith("memory/")}
        told = "peak memory is measured only in a process of the run's own: write engine.in_process=false"
        record.data.setdefault("notes", []).append(told)


def _note_endless(record: Record) -> None:
    if names := [name for name, value in record.metrics.items() if isinstance(value, float) and not isfinite(value)]:
        record.data.setdefault("notes", []).append(f"not a finite number: {', '.join(names)}")


def classify(error: BaseException) -> tuple[Status, str, str | None]:
    """Status, one-line reason and traceback (None where the reason says all) of what a run raised."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Skip):
        return "skipped", reason, None
    if isinstance(error, Pruned):
        return "pruned", reason, None
    if isinstance(error, UserError):
        return "failed", reason, None
    kind: Status = "oom" if _is_out_of_memory(error) else "failed"
    hint = NO_BF16 if "BFloat16" in reason else ""
    return kind, f"{type(error).__name__}: {reason}"[:500] + hint, "".join(traceback.format_exception(error))


def _is_out_of_memory(error: BaseException) -> bool:
    # torch raises its own class where its allocator on CUDA finds no room, which is not all that takes memory there.
    name = type(error).__name__
    return name in ("OutOfMemoryError", "MemoryError") or any(text in str(error) for text in OUT_OF_MEMORY)


@dataclass
class _Reports:
    """Passes progress on, and keeps the validation figures of a run that may not come to its end."""

    on_progress: OnProgress
    history: list[dict[str, float | int]] = field(default_factory=list)

    def __call__(self, phase: str, done: int, total: int, figures: dict[str, float] | None = None) -> None:
        if validated := {name: value for name, value in (figures or {}).items() if name.startswith(VALIDATION)}:
            self.history.append({"step": done, **validated})
        self.on_progress(phase, done, total, validated)


def judging(judge: Judge, on_progress: OnProgress) -> OnProgress:
    """Progress as it is, and after each validation the judge is asked; its reason ends the run."""
    count = itertools.count(1)

    def judged(phase: str, done: int, total: int, figures: dict[str, float] | None = None) -> None:
        on_progress(phase, done, total)
        if figures and (reason := judge(next(count), figures)) is not None:
            raise Pruned(reason)

    return judged


def _judge(connection: Connection) -> Judge:
    """The engine's judgement, asked from the process of a run."""

    def ask(index: int, figures: dict[str, float]) -> str | None:
        connection.send((index, figures))
        reason: str | None = connection.recv()
        return reason

    return ask


class _Throttled:
    """Sends progress a few times a second, and the first and last of each phase always."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, phase: str, done: int, total: int, figures: dict[str, float] | None = None) -> None:
        now = time.monotonic()
        if phase == self._last[0] and done < total and now - self._last[1] < 1 / REPORTS_PER_SECOND:
            return
        self._last = (phase, now)
        with suppress(OSError):  # the engine is gone, and so will we be
            self._connection.send((phase, done, total))
