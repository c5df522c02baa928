"""``report.html``: everything about a sweep on one page that needs nothing but itself."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from peftbench import __version__
from peftbench.record import SOURCES, Record, write_atomically
from peftbench.report import PAGE, facts, search
from peftbench.report.charts import draw
from peftbench.report.failures import failed
from peftbench.report.figures import DASH, missing, number, quality, scale, score
from peftbench.report.options import flatten
from peftbench.report.sweep import Sweep
from peftbench.report.view import View

RUNS = 500
"""Runs listed one by one. Of more, only those of the rows shown are; results.csv has all."""
FAILURES = 100
"""Reasons, and run folders without a record, that are listed."""
VALUES = 12
"""Different values of one property that are listed."""
LISTED = 5
"""Runs that are named for each reason."""


@dataclass(frozen=True)
class Fact:
    """One property of the runs and its values: usually one, or the runs are not alike."""

    name: str
    values: tuple[str, ...]


def write(sweep: Sweep, shown: Sequence[View], baseline: str) -> Path:
    """Write the page into the sweep folder in one step and return its path."""
    path = sweep.folder / PAGE
    write_atomically(path, render(sweep, shown, baseline))
    return path


def render(sweep: Sweep, shown: Sequence[View], baseline: str) -> str:
    """The page as HTML. Everything that comes from a record is escaped; only our own drawings are markup."""
    loader = PackageLoader("peftbench.report", package_path="")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    failures = failed(sweep.records)
    runs = _chosen(sweep, shown)
    return environment.get_template("page.html.j2").render(
        sweep=sweep,
        baseline=baseline,
        version=__version__,
        again=shlex.join(["python", "-m", "peftbench.report", str(sweep.folder)]),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        statuses=Counter(record.status for record in sweep.records),
        search=search.load(sweep.folder),
        sections=[_section(view, f"s{index}") for index, view in enumerate(shown)],
        hidden_sections=len(sweep.sections) - len(shown),
        failures=failures[:FAILURES],
        hidden_failures=sum(len(one.runs) for one in failures[FAILURES:]),
        unreadable=sweep.unreadable[:FAILURES],
        runs=[_run(record) for record in runs],
        environment=_environment(sweep.records),
        listed=LISTED,
    )


def _chosen(sweep: Sweep, shown: Sequence[View]) -> list[Record]:
    """All runs, or those of the rows shown if all are too many."""
    if len(sweep.records) <= RUNS:
        return list(sweep.records)
    return [run for view in shown for setting in view.settings for run in setting.runs][:RUNS]


def _section(view: View, identity: str) -> dict[str, Any]:
    # ElementTree has escaped every text inside the drawings.
    charts = [(chart.title, Markup(chart.svg), chart.note) for chart in draw(view, identity)]
    cells = zip(*(column.cells for column in view.columns), strict=True)
    rows = [list(zip(view.columns, row, strict=True)) for row in cells]
    commands = [(setting, facts.commands(setting.runs)) for setting in view.settings]
    sections = {"id": identity, "view": view, "charts": charts, "rows": rows, "commands": commands}
    return {**sections, "about": _provenance(view), "sorted": _order(view)}


def _order(view: View) -> dict[str, str]:
    """Which column the rows are in the order of, and how."""
    return {"quality": "descending" if view.section.key.metric.higher_is_better else "ascending"}


def _provenance(view: View) -> list[Fact]:
    """Data and base model of the runs shown."""
    return _facts([flatten({"data": run.data, "base": run.base}) for setting in view.settings for run in setting.runs])


def _environment(records: Iterable[Record]) -> list[Fact]:
    """Machine, versions and commit, without what each run has of its own."""
    found: dict[str, dict[str, Any]] = {}
    before = None
    for record in records:
        # Most are like the one before: no text is made of those.
        if (environment := _shared(record.environment)) and environment != before:
            found.setdefault(json.dumps(environment, default=str), environment)
            before = environment
    return _facts([flatten(environment) for environment in found.values()])


def _shared(environment: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name not in ("overrides", SOURCES)}


def _facts(flat: list[dict[str, Any]]) -> list[Fact]:
    found: dict[str, dict[str, None]] = {}
    for mapping in flat:
        for name, value in mapping.items():
            if name:
                found.setdefault(name, {})[_text(name, value)] = None
    return [_cut(Fact(name, tuple(values))) for name, values in found.items()]


def _cut(fact: Fact) -> Fact:
    more = len(fact.values) - VALUES
    return Fact(fact.name, (*fact.values[:VALUES], f"and {more:,} more values")) if more > 0 else fact


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes") and isinstance(value, int):
        divisor, unit = scale("bytes", [value])
        return f"{number(value, divisor)} {unit}"
    return DASH if value is None else str(value)


def _run(record: Record) -> dict[str, Any]:
    figure = quality(record.metrics)
    value = record.metrics.get(figure.name)
    unit = scale(figure.kind, [])[1]
    shown = DASH if missing(value) else f"{figure.label} {score(figure, value)} {unit}".strip()
    seconds = record.metrics.get("time/total_s")
    return {
        "id": record.run_id,
        "status": record.status,
        "quality": shown,
        "seconds": DASH if missing(seconds) else f"{number(seconds)} s",
        "started": record.started.partition(".")[0] or DASH,
        "command": facts.command(record),
    }
