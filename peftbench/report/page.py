"""``report.html``: everything about a sweep on one page that needs nothing but itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from peftbench import __version__
from peftbench.record import Record, write_atomically
from peftbench.report import facts
from peftbench.report.charts import draw
from peftbench.report.figures import DASH, missing, number, quality, scale, score
from peftbench.report.sweep import Section, Sweep, flatten
from peftbench.report.view import View, views

FILE = "report.html"


@dataclass(frozen=True)
class Fact:
    """One property of the runs and its values: usually one, or the runs are not alike."""

    name: str
    values: tuple[str, ...]


def write(sweep: Sweep, baseline: str) -> Path:
    """Write the page into the sweep folder in one step and return its path."""
    path = sweep.folder / FILE
    write_atomically(path, render(sweep, baseline))
    return path


def render(sweep: Sweep, baseline: str) -> str:
    """The page as HTML. Everything that comes from a record is escaped; only our own drawings are markup."""
    loader = PackageLoader("peftbench.report", package_path="")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sections = [_section(view, f"s{index}") for index, view in enumerate(views(sweep, baseline))]
    return environment.get_template("page.html.j2").render(
        sweep=sweep,
        baseline=baseline,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        statuses=Counter(record.status for record in sweep.records),
        sections=sections,
        failures=[(record, facts.reason(record)) for record in sweep.failures],
        runs=[_run(record) for record in sweep.records],
        environment=_environment(list(sweep.records)),
        series=range(6),
    )


def _section(view: View, identity: str) -> dict[str, Any]:
    # ElementTree has escaped every text inside the drawings.
    charts = [(chart.title, Markup(chart.svg)) for chart in draw(view.section, identity)]
    cells = zip(*(column.cells for column in view.columns), strict=True)
    rows = [
        (run, list(zip(view.columns, row, strict=True)))
        for run, row in zip(view.frame["first_run"], cells, strict=True)
    ]
    return {"id": identity, "view": view, "charts": charts, "rows": rows, "about": _provenance(view.section)}


def _provenance(section: Section) -> list[Fact]:
    """Data and base model of a section's runs."""
    return _facts([flatten({"data": run.data, "base": run.base}) for run in section.runs])


def _environment(records: list[Record]) -> list[Fact]:
    """Machine, versions and commit. The overrides are left out: they stand with each run."""
    return _facts([_flat_environment(record) for record in records if record.environment])


def _flat_environment(record: Record) -> dict[str, Any]:
    return flatten({name: value for name, value in record.environment.items() if name != "overrides"})


def _facts(flat: list[dict[str, Any]]) -> list[Fact]:
    names = dict.fromkeys(name for mapping in flat for name in mapping)
    facts_ = [
        Fact(name, tuple(dict.fromkeys(_text(one[name]) for one in flat if name in one))) for name in names if name
    ]
    return [fact for fact in facts_ if fact.values]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return DASH if value is None else str(value)


def _run(record: Record) -> dict[str, Any]:
    figure = quality(record.metrics)
    value = record.metrics.get(figure.name) if figure else None
    unit = scale(figure.kind, [])[1] if figure else ""
    shown = DASH if missing(value) or figure is None else f"{figure.label} {score(figure, value)} {unit}".strip()
    seconds = record.metrics.get("time/total_s")
    return {
        "id": record.run_id,
        "status": record.status,
        "quality": shown,
        "seconds": DASH if missing(seconds) else f"{number(seconds)} s",
        "started": record.started or DASH,
        "command": facts.command(record),
    }
