"""The columns of a settings table: what is read in each cell, what it is sorted by, and more words for who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from peftbench.report.figures import ACHIEVED, COSTS, DASH, Figure, change, missing, number, scale, score
from peftbench.report.sweep import Section
from peftbench.report.table import ENOUGH

MARK = "≈"
"""Stands after a figure that did not repeat."""


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, what it is sorted by, and more words for who asks."""

    text: str
    sort: float | str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """One column with a cell for every setting."""

    key: str
    label: str
    unit: str
    cells: tuple[Cell, ...]
    numeric: bool = True
    priority: int = 0
    """A narrow terminal drops the highest first, and never a 0."""
    main: bool = True
    """Whether it is shown unless all are asked for."""

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


def describe(section: Section, frame: pd.DataFrame, baseline: str) -> tuple[tuple[Column, ...], list[str]]:
    """The columns, and what is said once above the table because it is the same in every row."""
    axes = [_rank(frame), _sparsity(frame)]
    extras = [_extra(frame, name) for name in section.extras]
    same = [column for column in [*axes, *extras] if len({cell.text for cell in column.cells}) == 1]
    fixed = [f"{column.label} {column.cells[0].text}" for column in same if column.cells[0].text != DASH]
    axes = [column for column in axes if column not in same]
    extras = [column for column in extras if column not in same]
    metric = section.key.metric
    achieved = [] if all(map(missing, frame[ACHIEVED.name])) else [_cost(frame, ACHIEVED, 3)]
    result = [_quality(metric, frame), _verdict(metric, frame, baseline)]
    others = [figure for figure in COSTS if figure.name != metric.name]
    measured = [figure for figure in others if not all(map(missing, frame[figure.name]))]
    costs = [_cost(frame, figure, priority) for priority, figure in enumerate(measured, start=1)]
    details = [*_deviation(metric, frame), *_test(metric, frame)]
    return (_method(frame), *axes, *achieved, *result, *extras, _seeds(frame), *costs, *details), fixed


def _method(frame: pd.DataFrame) -> Column:
    return Column("method", "method", "", tuple(Cell(str(name), str(name)) for name in frame["method"]), numeric=False)


def _rank(frame: pd.DataFrame) -> Column:
    return Column("rank", "rank", "", tuple(_plain(value) for value in frame["rank"]))


def _sparsity(frame: pd.DataFrame) -> Column:
    pairs = zip(frame["sparsity"], frame["ratio"], strict=True)
    texts = [f"{name} {ratio:g}" if not missing(ratio) else str(name or "none") for name, ratio in pairs]
    return Column("sparsity", "sparsity", "", tuple(Cell(text, text) for text in texts), numeric=False)


def _extra(frame: pd.DataFrame, name: str) -> Column:
    cells = tuple(_plain(value) for value in frame[name])
    numeric = all(not isinstance(cell.sort, str) for cell in cells)
    return Column(name, name, "", cells, numeric)


def _plain(value: Any) -> Cell:
    if missing(value):
        return Cell(DASH)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value), str(value))
    # Six digits where they are all of the number: two values must not look alike.
    short = f"{value:g}"
    return Cell(short if float(short) == value else str(value), float(value))


def _seeds(frame: pd.DataFrame) -> Column:
    pairs = zip(frame["seeds"], frame["planned"], strict=True)
    return Column("seeds", "seeds", "", tuple(Cell(f"{n}" if n == all_ else f"{n} of {all_}", n) for n, all_ in pairs))


def _quality(metric: Figure, frame: pd.DataFrame) -> Column:
    cells = tuple(_interval(metric, row) for row in frame.to_dict("records"))
    return Column("quality", metric.label, scale(metric.kind, [])[1], cells)


def _interval(metric: Figure, row: Mapping[Any, Any]) -> Cell:
    show = partial(score, metric)
    if missing(row["mean"]):
        return Cell(DASH)
    if missing(row["half"]):
        return Cell(f"{show(row['mean'])} (1 seed)", row["mean"], "one seed: no interval")
    hint = f"sd {show(row['sd'])}, 95 % interval {show(row['low'])} to {show(row['high'])}, {row['seeds']} seeds"
    if row["seeds"] < ENOUGH:
        return Cell(f"{show(row['mean'])} ({show(row['least'])}–{show(row['most'])})", row["mean"], hint)
    return Cell(f"{show(row['mean'])} ± {show(row['half'])}", row["mean"], hint)


def _verdict(metric: Figure, frame: pd.DataFrame, baseline: str) -> Column:
    cells = tuple(_judged(metric, row) for row in frame.to_dict("records"))
    return Column("verdict", f"vs {baseline}", "", cells, numeric=False)


def _judged(metric: Figure, row: Mapping[Any, Any]) -> Cell:
    verdict, show = row["verdict"], partial(change, metric)
    if verdict == "baseline":
        return Cell("baseline", "", "the setting others are compared with")
    if verdict == "untested":
        return Cell(DASH, None, f"no test: {row['note']}")
    interval = f"{show(row['change'])}, 95 % interval {show(row['change_low'])} to {show(row['change_high'])}"
    test = f"p = {row['p']:.4f}, Holm-corrected {row['p_holm']:.4f}; {row['common_seeds']} seeds, {row['items']} items"
    return Cell(f"{verdict} {show(row['change'])}", row["change"], f"against {row['against']}: {interval}; {test}")


def _deviation(metric: Figure, frame: pd.DataFrame) -> list[Column]:
    cells = tuple(Cell(score(metric, value), value) for value in frame["sd"])
    return [] if all(map(missing, frame["sd"])) else [Column("sd", "sd", "", cells, priority=92, main=False)]


def _test(metric: Figure, frame: pd.DataFrame) -> list[Column]:
    """Interval of the change and corrected p, where at least one setting was tested."""
    if "p_holm" not in frame or all(map(missing, frame["p_holm"])):
        return []
    pairs = zip(frame["change_low"], frame["change_high"], strict=True)
    texts = [DASH if missing(low) else f"{change(metric, low)} to {change(metric, high)}" for low, high in pairs]
    intervals = tuple(Cell(text, low) for text, low in zip(texts, frame["change_low"], strict=True))
    values = tuple(Cell(DASH if missing(p) else "< 0.001" if p < 0.001 else f"{p:.3f}", p) for p in frame["p_holm"])
    return [
        Column("interval", "change interval", "95 %", intervals, priority=90, main=False),
        Column("p_holm", "p (Holm)", "", values, priority=91, main=False),
    ]


def _cost(frame: pd.DataFrame, figure: Figure, priority: int) -> Column:
    values = list(frame[figure.name])
    divisor, unit = scale(figure.kind, values)
    marks = [spreads.get(figure.name) for spreads in frame["unsteady"]]
    cells = tuple(_measured(value, divisor, spread) for value, spread in zip(values, marks, strict=True))
    return Column(figure.name, figure.label, unit, cells, priority=priority, main=figure.main)


def _measured(value: Any, divisor: float, spread: float | None) -> Cell:
    if missing(value):
        return Cell(DASH)
    if spread is None:
        return Cell(number(value, divisor), float(value))
    return Cell(f"{number(value, divisor)} {MARK}", float(value), f"repeated measurements lie {spread:.0%} apart")
