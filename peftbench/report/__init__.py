"""The report: tables, comparisons and one web page, made from nothing but the records of a sweep folder.

Nothing heavy is imported until something is written or shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path
    from typing import TextIO

__all__ = ["BASELINE", "PAGE", "SEARCH", "show", "write"]

BASELINE = "lora"
"""The method that others are compared with unless another one is named."""
PAGE = "report.html"
SEARCH = "search.json"
"""What a search leaves in its sweep folder for the page."""


def write(folder: Path, *, baseline: str = BASELINE) -> Path:
    """Write ``results.csv``, ``results.parquet`` and ``report.html`` into a sweep folder and return the page's path.

    Raises:
        UserError: there is no such folder, or no record in it.
    """
    from peftbench.report import page, sweep, table, view

    loaded = sweep.load(folder)
    table.write(loaded)
    return page.write(loaded, view.views(loaded, baseline), baseline)


def show(
    folder: Path, *, baseline: str = BASELINE, file: TextIO | None = None, only: Collection[str] | None = None
) -> None:
    """Print the tables of a sweep folder to ``file`` (standard output), without colour codes if it is not a terminal.

    Args:
        only: ids of runs: their settings alone are shown, and what these are compared with; None is all.

    Raises:
        UserError: there is no such folder, or no record in it.
    """
    from peftbench.report import part, sweep, terminal, view

    loaded = sweep.load(folder)
    shown = loaded if only is None else part.part(loaded, only, baseline)
    found = view.views(shown, baseline, whole=loaded)
    terminal.show(shown, found, file, others=loaded.size - shown.size)
