"""What the terminal, Markdown and the page all show: the columns and cells of one section, and its heading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from peftbench.record import Record
from peftbench.report import facts
from peftbench.report.baseline import compare
from peftbench.report.compare import Comparison
from peftbench.report.figures import (
    ACHIEVED,
    COSTS,
    DASH,
    UNSTEADY,
    Figure,
    change,
    change_unit,
    missing,
    number,
    scale,
    score,
)
from peftbench.report.sweep import Section, Setting, Sweep
from peftbench.report.table import ENOUGH, settings_frame

LIMIT = 300
"""Rows of all tables together: more than a person reads, and what a page can hold. The rest is in results.csv."""
SECTIONS = 24
FEWEST = 10
"""Rows that a table may have however many tables there are."""
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


@dataclass(frozen=True)
class View:
    """One section, ready to be written down."""

    section: Section
    settings: tuple[Setting, ...]
    """The ones shown, in the order of the rows."""
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    title: str
    facts: tuple[str, ...]
    """What holds for every row: seeds, device, precision, the meaning of the interval and of the verdict."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    """Why some settings are not compared."""


def views(sweep: Sweep, baseline: str, limit: int | None = None) -> list[View]:
    """The sections of a sweep, the largest first where there are more than `SECTIONS`; ``limit`` rows in all."""
    sections = sweep.sections
    if len(sections) > SECTIONS:
        sections = tuple(sorted(sections, key=lambda section: -len(section.settings))[:SECTIONS])
    share = max((limit or LIMIT) // max(len(sections), 1), FEWEST)
    return [_view(sweep.folder, section, baseline, share) for section in sections]


def _view(folder: Path, section: Section, baseline: str, limit: int) -> View:
    chosen = best(section, limit)
    comparisons = compare(folder, section, baseline, chosen)
    frame = settings_frame(section, comparisons, chosen)
    columns, fixed = _columns(section, frame, baseline)
    runs = [run for setting in chosen for run in setting.runs]
    about = (*_cut(section, chosen), *_facts(section, runs, frame, fixed, baseline))
    notes = (*_unsteady(frame), *_untested(chosen, comparisons))
    warnings = _warnings(section, runs)
    return View(section, tuple(frame["setting"]), frame, columns, _title(section), about, warnings, notes)


def best(section: Section, limit: int) -> tuple[Setting, ...]:
    """At most ``limit`` settings: those with the best validation figures, which say nothing about evaluation's luck."""
    if len(section.settings) <= limit:
        return section.settings
    metric = section.key.metric
    sign = -1 if metric and metric.higher_is_better else 1
    known = [setting for setting in section.settings if setting.validation is not None]
    unknown = [setting for setting in section.settings if setting.validation is None]
    return tuple([*sorted(known, key=lambda setting: sign * (setting.validation or 0.0)), *unknown][:limit])


def _cut(section: Section, chosen: Sequence[Setting]) -> list[str]:
    total = len(section.settings)
    if len(chosen) == total:
        return []
    return [
        f"The {len(chosen):,} of {total:,} settings with the best figures on validation, with tests corrected over "
        "these; the others are in results.csv."
    ]


def _columns(section: Section, frame: pd.DataFrame, baseline: str) -> tuple[tuple[Column, ...], list[str]]:
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
    measured = [figure for figure in COSTS if not all(map(missing, frame[figure.name]))]
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
    return Cell(f"{value:g}", float(value))


def _seeds(frame: pd.DataFrame) -> Column:
    pairs = zip(frame["seeds"], frame["planned"], strict=True)
    return Column("seeds", "seeds", "", tuple(Cell(f"{n}" if n == all_ else f"{n} of {all_}", n) for n, all_ in pairs))


def _quality(metric: Figure | None, frame: pd.DataFrame) -> Column:
    cells = tuple(_interval(metric, row) for row in frame.to_dict("records"))
    label = metric.label if metric else "quality"
    return Column("quality", label, scale(metric.kind, [])[1] if metric else "", cells)


def _interval(metric: Figure | None, row: Mapping[Any, Any]) -> Cell:
    show = partial(score, metric)
    if missing(row["mean"]):
        return Cell(DASH)
    if missing(row["half"]):
        return Cell(f"{show(row['mean'])} (1 seed)", row["mean"], "one seed: no interval")
    hint = f"sd {show(row['sd'])}, 95 % interval {show(row['low'])} to {show(row['high'])}, {row['seeds']} seeds"
    if row["seeds"] < ENOUGH:
        return Cell(f"{show(row['mean'])} ({show(row['least'])}–{show(row['most'])})", row["mean"], hint)
    return Cell(f"{show(row['mean'])} ± {show(row['half'])}", row["mean"], hint)


def _verdict(metric: Figure | None, frame: pd.DataFrame, baseline: str) -> Column:
    cells = tuple(_judged(metric, row) for row in frame.to_dict("records"))
    return Column("verdict", f"vs {baseline}", "", cells, numeric=False)


def _judged(metric: Figure | None, row: Mapping[Any, Any]) -> Cell:
    verdict, show = row["verdict"], partial(change, metric)
    if verdict == "baseline":
        return Cell("baseline", "", "the setting others are compared with")
    if verdict == "untested":
        return Cell(DASH, None, f"no test: {row['note']}")
    interval = f"{show(row['change'])}, 95 % interval {show(row['change_low'])} to {show(row['change_high'])}"
    test = f"p = {row['p']:.4f}, Holm-corrected {row['p_holm']:.4f}; {row['common_seeds']} seeds, {row['items']} items"
    return Cell(f"{verdict} {show(row['change'])}", row["change"], f"against {row['against']}: {interval}; {test}")


def _deviation(metric: Figure | None, frame: pd.DataFrame) -> list[Column]:
    cells = tuple(Cell(score(metric, value), value) for value in frame["sd"])
    return [] if all(map(missing, frame["sd"])) else [Column("sd", "sd", "", cells, priority=92, main=False)]


def _test(metric: Figure | None, frame: pd.DataFrame) -> list[Column]:
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


def _title(section: Section) -> str:
    key = section.key
    size = "" if key.size is None else f", {key.size:,} items"
    weights = ", random weights" if key.random_weights else ""
    return f"{key.dataset} · {key.model} · evaluated on {key.split}{size}{weights}"


def _facts(
    section: Section, runs: list[Record], frame: pd.DataFrame, fixed: list[str], baseline: str
) -> tuple[str, ...]:
    precision = facts.unique([facts.precision(run) for run in runs])
    sources = facts.unique([str(run.metrics["memory/source"]) for run in runs if run.metrics.get("memory/source")])
    where = [f"device {section.key.device}", f"precision {precision}", *([f"memory from {sources}"] if sources else [])]
    lines = [" · ".join([*fixed, *where])]
    lines.append(_intervals(frame))
    if any(verdict in ("better", "worse", "tie") for verdict in frame["verdict"]):
        lines.append(_explained(section, baseline))
    return tuple(lines)


def _intervals(frame: pd.DataFrame) -> str:
    """What stands beside the means of this table."""
    most = max(frame["seeds"], default=0)
    if most < 2:
        return "One seed each: there is no interval, and no difference can be told from seed noise."
    pairs = "in brackets the lowest and highest of two seeds (an interval of two values is too wide to be of use)"
    if most < ENOUGH:
        return f"{pairs[0].upper()}{pairs[1:]}; costs are means."
    interval = "± is half the 95 % confidence interval of the mean over seeds (Student t)"
    return "; ".join([interval, *([pairs] if 2 in set(frame["seeds"]) else []), "costs are means."])


def _explained(section: Section, baseline: str) -> str:
    unit = change_unit(section.key.metric)
    test = "paired permutation test over items with seed noise, Holm-corrected over this table, 5 % level"
    return f"vs {baseline}: change in {unit}; {test}; tie = not significant."


def _warnings(section: Section, runs: list[Record]) -> tuple[str, ...]:
    notes = [str(note) for run in runs for note in run.data.get("notes") or []]
    random = "The base model has random weights (not pretrained): quality here says nothing about a method."
    return tuple(dict.fromkeys([*([random] if section.key.random_weights else []), *facts.unlike(runs), *notes]))


def _unsteady(frame: pd.DataFrame) -> list[str]:
    if not any(frame["unsteady"]):
        return []
    return [f"{MARK}: measured several times (in a run, or by several seeds), and more than {UNSTEADY:.0%} apart."]


def _untested(settings: Sequence[Setting], comparisons: list[Comparison]) -> tuple[str, ...]:
    """One line a reason, with the settings it holds for."""
    labels: dict[str, list[str]] = {}
    for setting, comparison in zip(settings, comparisons, strict=True):
        if comparison.note:
            labels.setdefault(comparison.note, []).append(setting.label)
    return tuple(f"no test for {_listed(found)}: {note}" for note, found in labels.items())


def _listed(labels: list[str]) -> str:
    names = list(dict.fromkeys(labels))
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
