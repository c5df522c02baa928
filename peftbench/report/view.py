"""What the terminal, Markdown and the page all show: the columns and cells of one section, and its heading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from peftbench.record import Record
from peftbench.report import facts
from peftbench.report.baseline import compare
from peftbench.report.columns import MARK, Column, describe
from peftbench.report.compare import Comparison
from peftbench.report.figures import UNSTEADY, change_unit, missing, scale, score
from peftbench.report.sweep import Section, Setting, Sweep
from peftbench.report.table import ENOUGH, settings_frame

LIMIT = 300
"""Rows of all tables together that a page holds."""
SHOWN = 100
"""Rows that are left if there are more than that: what a person may still read. The rest is in results.csv."""
SECTIONS = 24
FEWEST = 10
"""Rows that a table may have however many tables there are."""


@dataclass(frozen=True)
class View:
    """One section, ready to be written down."""

    section: Section
    settings: tuple[Setting, ...]
    """The ones shown, in the order of the rows."""
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    title: str
    finding: str
    """What the table shows, in a sentence."""
    facts: tuple[str, ...]
    """What holds for every row: device, precision, options; how many rows are left out."""
    warnings: tuple[str, ...]
    """What a reader must know before the figures."""
    key: tuple[str, ...]
    """How to read the cells: the interval, the verdict, the mark."""
    notes: tuple[str, ...]
    """Why some settings are not compared, and what the data are."""


def views(sweep: Sweep, baseline: str, limit: int | None = None) -> list[View]:
    """The sections of a sweep, the largest first where there are more than `SECTIONS`.

    Args:
        limit: rows in all; None is all if they are at most `LIMIT`, and `SHOWN` otherwise.
    """
    sections = sweep.sections
    if len(sections) > SECTIONS:
        sections = tuple(sorted(sections, key=lambda section: -len(section.settings))[:SECTIONS])
    rows = sum(len(section.settings) for section in sections)
    most = limit or (rows if rows <= LIMIT else SHOWN)
    share = most if most >= rows else max(most // max(len(sections), 1), FEWEST)
    return [_view(sweep.folder, section, baseline, share) for section in sections]


def _view(folder: Path, section: Section, baseline: str, limit: int) -> View:
    chosen = best(section, limit)
    comparisons = compare(folder, section, baseline, chosen)
    frame = settings_frame(section, comparisons, chosen)
    columns, fixed = describe(section, frame, baseline)
    runs = [run for setting in chosen for run in setting.runs]
    return View(
        section,
        tuple(frame["setting"]),
        frame,
        columns,
        _title(section),
        _finding(section, frame, baseline),
        (*_cut(section, chosen), _where(section, runs, fixed)),
        _warnings(section, runs),
        (*_key(section, frame, baseline), *_unsteady(frame)),
        (*_untested(chosen, comparisons), *_data(runs)),
    )


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


def _title(section: Section) -> str:
    key = section.key
    size = "" if key.size is None else f", {key.size:,} items"
    weights = ", random weights" if key.random_weights else ""
    return f"{key.dataset} · {key.model} · evaluated on {key.split}{size}{weights}"


def _finding(section: Section, frame: pd.DataFrame, baseline: str) -> str:
    """The setting with the best mean, and how many of those compared differ from the baseline."""
    metric, top = section.key.metric, frame.iloc[0]
    if metric is None or missing(top["mean"]):
        return ""
    unit = scale(metric.kind, [])[1]
    value = f"{score(metric, top['mean'])}\u00a0{unit}".rstrip()
    extreme = "Highest" if metric.higher_is_better else "Lowest"
    mean = f"mean {metric.label}" if max(frame["seeds"]) > 1 else metric.label
    found = Counter(frame["verdict"])
    better, worse, ties = (found[name] for name in ("better", "worse", "tie"))
    compared = better + worse + ties
    against = ""
    if compared and not better + worse:
        what = "the one setting compared is" if compared == 1 else f"all {compared:,} settings compared are"
        against = f" Against {baseline}, {what} not told apart (tie)."
    elif compared:
        against = (
            f" Of {compared:,} compared with {baseline}: {better:,} better, {worse:,} worse, {ties:,} not told apart."
        )
    return f"{extreme} {mean}: {top['setting'].label}, {value}.{against}"


def _where(section: Section, runs: list[Record], fixed: list[str]) -> str:
    precision = facts.unique([facts.precision(run) for run in runs])
    sources = facts.unique([str(run.metrics["memory/source"]) for run in runs if run.metrics.get("memory/source")])
    where = [f"device {section.key.device}", f"precision {precision}", *([f"memory from {sources}"] if sources else [])]
    return " · ".join([*fixed, *where])


def _key(section: Section, frame: pd.DataFrame, baseline: str) -> list[str]:
    tested = any(verdict in ("better", "worse", "tie") for verdict in frame["verdict"])
    return [_intervals(frame), *([_explained(section, baseline)] if tested else [])]


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
    bases = [str(run.base["note"]) for run in runs if run.base.get("note")]
    random = "The base model has random weights (not pretrained): quality here says nothing about a method."
    return tuple(dict.fromkeys([*([random] if section.key.random_weights else []), *bases, *facts.unlike(runs)]))


def _data(runs: list[Record]) -> list[str]:
    return list(dict.fromkeys(str(note) for run in runs for note in run.data.get("notes") or []))


def _unsteady(frame: pd.DataFrame) -> list[str]:
    if not any(frame["unsteady"]):
        return []
    return [
        f"{MARK}: measured several times (in a run, or by several seeds), and more than {100 * UNSTEADY:g} % apart."
    ]


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
