"""What a sweep says while it runs: bars on a terminal, one line a run anywhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from peftbench.record import FINE, Record

HEADLINE = ("quality/accuracy", "quality/perplexity", "quality/mlm_loss")


class Progress:
    """One line for the sweep, one for each run at work; finished runs scroll by as single lines."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0
        self._failed = 0
        self._began = time.monotonic()
        self._runs: dict[str, tuple[TaskID, float]] = {}
        """Bar and moment of the start of each run at work."""
        self._elsewhere: set[str] = set()
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[steps]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not sys.stdout.isatty() or total == 0,
            transient=True,
        )
        self._sweep: TaskID = self._bars.add_task("sweep", total=total, steps="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """A line about the sweep as a whole."""
        self._console.print(line, markup=False)

    def elsewhere(self, run_id: str, who: str) -> None:
        """A point is with somebody else."""
        if run_id not in self._elsewhere:
            self._elsewhere.add(run_id)
            self.say(f"{run_id} is with {who}: waiting for its record")

    def begin(self, run_id: str) -> None:
        """A run begins (again, if it is tried once more)."""
        self._forget(run_id)
        self._runs[run_id] = (self._bars.add_task(f"{run_id} starting", total=None, steps=""), time.monotonic())
        self._count_up()

    def update(self, run_id: str, phase: str, done: int, total: int, *_: object) -> None:
        """A run at work has done ``done`` of ``total`` steps of ``phase``."""
        if run_id in self._runs:
            steps = f"{done}/{total}" if total else ""
            said = f"{run_id} {phase}"
            self._bars.update(self._runs[run_id][0], description=said, completed=done, total=total or None, steps=steps)

    def done(self, record: Record) -> None:
        """A run has ended: one line that says how."""
        self._count += 1
        self._failed += record.status not in FINE
        began = self._forget(record.run_id)
        figure = next(
            (
                f"{name.split('/')[1]} {value:.4f}"
                for name in HEADLINE
                if isinstance(value := record.metrics.get(name), float)
            ),
            record.reason or "",
        )
        took = [] if began is None else [f"{time.monotonic() - began:.1f} s"]
        facts = "  ".join([figure, *took, *self._rest()])
        self.say(f"[{self._count}/{self._total}] {record.status:7} {record.run_id}  {facts}")
        self._count_up()

    def without_run(self, line: str, *, failed: bool = False) -> None:
        """A trial has ended for which nothing was run: one line that says why."""
        self._count += 1
        self._failed += failed
        self.say(f"[{self._count}/{self._total}] {line}")
        self._count_up()

    def left(self) -> float | None:
        """Seconds that the rest will take at the speed so far; None before the first run has ended."""
        if not self._count or self._count >= self._total:
            return None
        return (time.monotonic() - self._began) / self._count * (self._total - self._count)

    def _rest(self) -> list[str]:
        said = [f"{self._failed} failed"] if self._failed else []
        said += [f"about {clock(left)} left"] if (left := self.left()) is not None else []
        return [f"({', '.join(said)})"] if said else []

    def _count_up(self) -> None:
        words = [f"{self._count}/{self._total} done", f"{len(self._runs)} running", f"{self._failed} failed"]
        words += [f"about {clock(left)} left"] if (left := self.left()) is not None else []
        self._bars.update(self._sweep, completed=self._count, steps=", ".join(words))

    def _forget(self, run_id: str) -> float | None:
        """Take a run's line away; the moment of its start, if it had one."""
        if run_id not in self._runs:
            return None
        task, began = self._runs.pop(run_id)
        self._bars.remove_task(task)
        return began


def clock(seconds: float) -> str:
    """A duration as people say it: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
