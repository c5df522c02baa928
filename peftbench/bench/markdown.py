"""The few pieces of Markdown that pages are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

NOTHING = "–"
"""Stands where nothing was measured."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    rule = "|:---|" + "---:|" * (len(columns) - 1)
    return "\n".join([_row(columns), rule, *(_row(row) for row in rows)])


def bullets(items: Mapping[str, str]) -> str:
    """``- Name: text`` lines."""
    return "\n".join(f"- {name}: {text}" for name, text in items.items())


def middle(values: Sequence[float] | None, unit: float = 1.0, digits: int = 1) -> str:
    """The median of figures, in a unit of so many, with so many decimals."""
    return f"{median(values) / unit:.{digits}f}" if values else NOTHING


def ratio(values: Sequence[float] | None) -> str:
    """The median of ratios."""
    return f"{median(values):.2f}×" if values else NOTHING


def spread(values: Sequence[float] | None) -> str:
    """Smallest and largest of ratios; nothing where there is one only."""
    return f"{min(values):.2f}–{max(values):.2f}" if values and len(values) > 1 else NOTHING


def met(is_met: bool) -> Literal["met", "not met"]:
    """Whether a bar is kept."""
    return "met" if is_met else "not met"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
