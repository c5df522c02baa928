"""The tables at the end of a sweep: within the width of a terminal, and plain text in a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peftbench.report import PAGE
from peftbench.report.columns import Column
from peftbench.report.failures import unfinished
from peftbench.report.view import View

if TYPE_CHECKING:
    from peftbench.report.sweep import Sweep

FILE_WIDTH = 400
"""Columns that a line may take in a file, where nothing has to fit a window."""
MAX_ROWS = 60
"""Of one table, the best; a larger one is looked at in the report."""
MAX_FAILURES = 20
NAMED = 8
"""Columns that are named although there is no room for them."""
STYLES = {"better": "bold green", "worse": "red", "tie": "dim", "baseline": "dim"}


def show(sweep: Sweep, shown: Sequence[View], file: TextIO | None = None, *, others: int = 0) -> None:
    """Print one table a section, then what did not finish and why, then where the page is.

    Args:
        others: settings that the page has besides those of ``sweep``.
    """
    console = _console(file or sys.stdout)
    for view in shown:
        _section(console, view)
    if hidden := len(sweep.sections) - len(shown):
        _say(console, f"{hidden} smaller tables are left out: their runs are in results.csv", "dim")
    if not sweep.sections:
        _say(console, f"No run of {sweep.name} finished, so there are no figures.", "bold")
    _failures(console, sweep)
    if sweep.copies:
        _say(console, f"! Not counted, for another folder holds the same run: {', '.join(sweep.copies)}", "yellow")
    page = sweep.folder / PAGE
    if page.exists():
        _say(console, f"Report: {page}" + (f" ({others:,} other settings are there too)" if others else ""))


def _console(file: TextIO) -> Console:
    console = Console(file=file, highlight=False, emoji=False, markup=False)
    return console if console.is_terminal else Console(file=file, width=FILE_WIDTH, no_color=True, highlight=False)


def _say(console: Console, text: str, style: str = "") -> None:
    # Soft wrapping keeps a line one line in a file, and lets the terminal break it where it must.
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _section(console: Console, view: View) -> None:
    _say(console, view.title, "bold")
    _say(console, view.finding)
    for line in view.facts:
        _say(console, line, "dim")
    for line in view.warnings:
        _say(console, f"! {line}", "yellow")
    columns = [column for column in view.columns if column.main]
    table = _table(columns)
    # Measured against the width of a file: within its own, a console never finds a table too wide.
    wide = console.options.update(width=FILE_WIDTH)
    while (
        console.measure(table, options=wide).maximum > console.width and (least := max(columns, key=_priority)).priority
    ):
        columns.remove(least)
        table = _table(columns)
    console.print(table)
    dropped = [column.label for column in view.columns if column not in columns]
    rows = [f"{more:,} more rows in the report"] if (more := len(view.settings) - MAX_ROWS) > 0 else []
    named = [*dropped[:NAMED], *([f"{len(dropped) - NAMED} more"] if len(dropped) > NAMED else [])]
    for line in rows + [f"in the report only: {', '.join(named)}"] * bool(dropped) + [*view.key, *view.notes]:
        _say(console, line, "dim")
    _say(console, "")


def _priority(column: Column) -> int:
    return column.priority


def _table(columns: list[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    for column in columns:
        # The unit under the label keeps columns as narrow as their numbers.
        head = Text(column.label.replace(" ", "\n", 1) + (f"\n{column.unit}" if column.unit else ""))
        wraps = {"overflow": "fold"} if not column.priority else {"no_wrap": True}
        table.add_column(head, justify="right" if column.numeric else "left", **wraps)
    for cells in zip(*(column.cells[:MAX_ROWS] for column in columns), strict=True):
        table.add_row(*(Text(cell.text, style=STYLES.get(cell.text.split(" ")[0], "")) for cell in cells))
    return table


def _failures(console: Console, sweep: Sweep) -> None:
    lines = unfinished(sweep)
    if not lines:
        return
    total = len(sweep.records) + len(sweep.unreadable)
    missing = total - sum(record.status == "ok" for record in sweep.records)
    _say(console, f"{missing:,} of {total:,} runs did not finish:", "bold")
    for line in lines[:MAX_FAILURES]:
        _say(console, f"  {line}")
    if len(lines) > MAX_FAILURES:
        _say(console, f"  and {len(lines) - MAX_FAILURES} more, all in results.csv and in the report")
