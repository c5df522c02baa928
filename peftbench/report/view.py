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
from peftbench.report.figures import UNSTEADY, change_unit, missing
from peftbench.report.finding import finding, listed
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


def views(sweep: Sweep, baseline: str, *, whole: Sweep | None = None) -> list[View]:
    """The sections of a sweep, the largest first where there are more than `SECTIONS`.

    Args:
        whole: the sweep that ``sweep`` is a part of: tests are corrected over all that it compares.
    """
    sections = sweep.sections
    if len(sections) > SECTIONS:
        sections = tuple(sorted(sections, key=lambda section: -len(section.settings))[:SECTIONS])
    rows = sum(len(section.settings) for section in sections)
    most = rows if rows <= LIMIT else SHOWN
    share = most if most >= rows else max(most // max(len(sections), 1), FEWEST)
    titles = _titles(sections)
    family = {section.key: section for section in (whole or sweep).sections}
    return [
        _view(sweep.folder, section, title, baseline, share, family[section.key])
        for section, title in zip(sections, titles, strict=True)
    ]


def _view(folder: Path, section: Section, title: str, baseline: str, limit: int, family: Section) -> View:
    chosen = best(section, limit)
    tested = {id(setting): setting for setting in (*chosen, *(best(family, LIMIT) if family is not section else ()))}
    found = dict(zip(tested, compare(folder, family, baseline, list(tested.values())), strict=True))
    comparisons = [found[id(setting)] for setting in chosen]
    over = "this table" if len(tested) == len(chosen) else f"the {len(tested):,} settings of the page's table"
    frame = settings_frame(section, comparisons, chosen)
    columns, fixed = describe(section, frame, baseline)
    runs = [run for setting in chosen for run in setting.runs]
    return View(
        section,
        tuple(frame["setting"]),
        frame,
        columns,
        title,
        finding(section, frame, baseline),
        (*_cut(section, chosen), _where(section, runs, fixed)),
        _warnings(section, runs),
        (*_key(section, frame, baseline, over), *_unsteady(frame)),
        (
            *_untested(section, chosen, comparisons),
            *_partly(section, chosen, comparisons),
            *_infinite(section, chosen),
            *_rates(section, chosen),
            *_data(runs),
        ),
    )


def best(section: Section, limit: int) -> tuple[Setting, ...]:
    """At most ``limit`` settings: those with the best validation figures, which say nothing about evaluation's luck."""
    if len(section.settings) <= limit:
        return section.settings
    sign = -1 if section.key.metric.higher_is_better else 1
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


def _titles(sections: Sequence[Section]) -> list[str]:
    """A title each; those that would be called alike have their devices and their data named too."""
    titles = [_title(section) for section in sections]
    named = [f"{title} · {section.key.device}" for title, section in zip(titles, sections, strict=True)]
    titles = _told_apart(titles, named)
    return _told_apart(
        titles, [f"{title} · items {section.key.evaluated}" for title, section in zip(titles, sections, strict=True)]
    )


def _told_apart(titles: list[str], longer: list[str]) -> list[str]:
    often = Counter(titles)
    return [long if often[title] > 1 else title for title, long in zip(titles, longer, strict=True)]


def _title(section: Section) -> str:
    key = section.key
    size = "" if key.size is None else f", {key.size:,} items"
    weights = ", random weights" if key.random_weights else ""
    return f"{key.dataset} · {key.model} · evaluated on {key.split}{size}{weights}"


def _where(section: Section, runs: list[Record], fixed: list[str]) -> str:
    precision = facts.unique([facts.precision(run) for run in runs])
    sources = facts.unique([str(run.metrics["memory/source"]) for run in runs if run.metrics.get("memory/source")])
    where = [f"device {section.key.device}", f"precision {precision}", *([f"memory from {sources}"] if sources else [])]
    return " · ".join([*fixed, *where])


def _key(section: Section, frame: pd.DataFrame, baseline: str, over: str) -> list[str]:
    tested = any(verdict in ("better", "worse", "tie") for verdict in frame["verdict"])
    return [_intervals(frame), *([_explained(section, baseline, over)] if tested else [])]


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


def _explained(section: Section, baseline: str, over: str) -> str:
    metric = section.key.metric
    unit = change_unit(metric)
    if metric.kind == "plain":
        unit += ", of geometric means over seeds (means shown are arithmetic)"
    test = f"paired permutation test over items with seed noise, Holm-corrected over {over}, 5 % level"
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
        f"{MARK}: measured several times (in a run, or by several seeds), and more than {100 * UNSTEADY:g} % apart; "
        "what was measured once has no mark."
    ]


def _untested(section: Section, settings: Sequence[Setting], comparisons: list[Comparison]) -> tuple[str, ...]:
    """One line a reason, with the settings it holds for."""
    labels: dict[str, list[str]] = {}
    for setting, comparison in zip(settings, comparisons, strict=True):
        if comparison.note:
            labels.setdefault(comparison.note, []).append(section.name(setting))
    return tuple(f"no test for {listed(found)}: {note}" for note, found in labels.items())


def _partly(section: Section, settings: Sequence[Setting], comparisons: list[Comparison]) -> list[str]:
    """Comparisons over fewer seeds than their row's mean has: the change is not the difference of the means shown."""
    labels: dict[int, list[str]] = {}
    for setting, comparison in zip(settings, comparisons, strict=True):
        if comparison.gain is not None and comparison.partly:
            labels.setdefault(comparison.seeds, []).append(section.name(setting))
    return [
        f"The change of {listed(found)} is over the {seeds} seeds that it and its baseline both have, not over all."
        for seeds, found in labels.items()
    ]


def _infinite(section: Section, settings: Sequence[Setting]) -> list[str]:
    """Runs that finished and have no figure: the table counts them as it does those that did not finish."""
    metric = section.key.metric
    names = [
        section.name(setting)
        for setting in settings
        if any(missing(run.metrics.get(metric.name)) for run in setting.runs)
    ]
    if not names:
        return []
    return [f"Runs of {listed(names)} finished without a finite {metric.label}, and its means leave them out."]


def _rates(section: Section, settings: Sequence[Setting]) -> list[str]:
    """Learning rates that differ between methods, and several of one method, of which the best here is a lucky one."""
    rates: dict[str, set[float]] = {}
    for setting in settings:
        if (rate := setting.options.get("trainer.lr")) is not None:
            rates.setdefault(str(setting.axes["method"]), set()).add(rate)
    if len({frozenset(found) for found in rates.values()}) < 2 and all(len(found) < 2 for found in rates.values()):
        return []
    if any(len(found) > 1 for found in rates.values()):
        how = "`python -m peftbench.report.choose`"
        return [f"Several learning rates of a method: choose among them by validation ({how}), not by this table."]
    each = ", ".join(f"{method} {rate:g}" for method, (rate,) in sorted(rates.items()))
    how = "by validation among equally many (`peftbench -cn fair_lr`)"
    return [f"Learning rates differ ({each}): a fair comparison has chosen each {how}."]
