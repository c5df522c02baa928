"""The settings tables as GitHub Markdown, for a README or a documentation page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.report.columns import Column
from peftbench.report.failures import unfinished
from peftbench.report.view import View

if TYPE_CHECKING:
    from peftbench.report.sweep import Sweep


def render(sweep: Sweep, shown: Sequence[View], *, named: bool = False) -> str:
    """All sections: a heading, what the table shows, the table, what the figures mean; then what did not finish.

    Args:
        named: whether to begin with the name of the sweep.
    """
    sections = [f"## {_safe(sweep.name)}\n"] if named else []
    sections += [_section(view) for view in shown]
    if not shown:
        sections.append(f"No run of {_safe(sweep.name)} finished, so there are no figures.\n")
    if lines := unfinished(sweep):
        sections.append("Not finished:\n\n" + "".join(f"- {_safe(line)}\n" for line in lines))
    return "\n".join(sections)


def _section(view: View) -> str:
    notes = "  \n".join(map(_safe, [*view.facts, *view.warnings, *view.key, *view.notes]))
    finding = f"{_safe(view.finding)}\n\n" if view.finding else ""
    return (
        f"### {_safe(view.title)}\n\n{finding}{_table([column for column in view.columns if column.main])}\n\n{notes}\n"
    )


def _table(columns: Sequence[Column]) -> str:
    head = _row([column.title for column in columns])
    rule = "|" + "|".join("---:" if column.numeric else ":---" for column in columns) + "|"
    rows = [_row([cell.text for cell in cells]) for cells in zip(*(column.cells for column in columns), strict=True)]
    return "\n".join([head, rule, *rows])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(map(_safe, cells)) + " |"


def _safe(text: str) -> str:
    """Text that Markdown shows as it is: no tags, no table bars, no emphasis, one line."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escaped)
