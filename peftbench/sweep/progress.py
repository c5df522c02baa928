"""What a sweep says while it runs: bars on a terminal, one line a run anywhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from peftbench.record import Record

HEADLINE = ("quality/accuracy", "quality/perplexity", "quality/mlm_loss")


class Progress:
    """One bar for the sweep, one for the run in progress; finished runs scroll by as single lines."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0
        self._began = time.monotonic()
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stdout.isatty() or total == 0,
            transient=True,
        )
        self._sweep: TaskID = self._bars.add_task("sweep", total=total)
        self._run: TaskID = self._bars.add_task("", total=None, visible=False)
        self._run_id = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def begin(self, run_id: str) -> None:
        """A run begins."""
        self._run_id = run_id
        self._began = time.monotonic()
        self._bars.reset(self._run, description=f"{run_id} starting", total=None, visible=True)

    def update(self, phase: str, done: int, total: int) -> None:
        """The run in progress has done ``done`` of ``total`` steps of ``phase``."""
        self._bars.update(
            self._run, description=f"{self._run_id} {phase}", completed=done, total=total or None, visible=True
        )

    def done(self, record: Record) -> None:
        """A run has ended: one line that says how."""
        self._count += 1
        self._bars.update(self._sweep, completed=self._count)
        figure = next(
            (
                f"{name.split('/')[1]} {value:.4f}"
                for name in HEADLINE
                if isinstance(value := record.metrics.get(name), float)
            ),
            record.reason or "",
        )
        seconds = time.monotonic() - self._began
        where = f"[{self._count}/{self._total}]"
        self._console.print(f"{where} {record.status:7} {record.run_id}  {figure}  {seconds:.1f} s", markup=False)
