"""Records as tables: one row a run (``results.csv``) and one row a setting (mean, deviation, interval)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from peftbench.record import Record, write_atomically
from peftbench.report.figures import COSTS, Figure, missing
from peftbench.report.sweep import AXES, Section, Setting, Sweep, flatten

if TYPE_CHECKING:
    from peftbench.report.compare import Comparison

CONFIDENCE = 0.95
RUN_AXES = ("method", "dataset", "model", "rank", "sparsity", "ratio", "seed")


@dataclass(frozen=True)
class Summary:
    """Seeds of one setting: how many, their mean, standard deviation (n - 1) and half the 95 % interval."""

    n: int
    mean: float | None
    sd: float | None
    half: float | None


def summarize(values: Sequence[Any]) -> Summary:
    """Summarize one figure over seeds; spread and interval (Student t) exist from two values on."""
    present = [float(value) for value in values if not missing(value)]
    n = len(present)
    if n < 2:
        return Summary(n, present[0] if present else None, None, None)
    from scipy import stats

    series = pd.Series(present)
    sd = float(series.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / n**0.5
    return Summary(n, float(series.mean()), sd, half)


def runs_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run, finished or not: id, axes, options that vary in the sweep, status, reason and every metric."""
    options = [flatten({"config": record.config}) for record in records]
    varying = _varying(options)
    rows = [
        _run_row(record, {name: own.get(name) for name in varying})
        for record, own in zip(records, options, strict=True)
    ]
    # As objects first: pandas would make floats of whole numbers as soon as one run lacks them.
    return pd.DataFrame(rows, dtype=object).apply(_typed)


def _run_row(record: Record, options: dict[str, Any]) -> dict[str, Any]:
    axes = {name: record.axes.get(name) for name in dict.fromkeys([*RUN_AXES, *record.axes])}
    about = {"status": record.status, "reason": record.reason}
    times = {"started": record.started, "ended": record.ended, "config_hash": record.config_hash}
    return {"run_id": record.run_id, **axes, **about, **record.metrics, **times, **options}


def _varying(options: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for mapping in options for name in mapping)
    return [name for name in names if len({repr(mapping.get(name)) for mapping in options}) > 1]


def _typed(column: pd.Series) -> pd.Series:
    """A column of one type that CSV and Parquet both keep: whole numbers, numbers, or text."""
    present = [value for value in column if not missing(value)]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in present):
        return pd.Series(pd.array(_nulled(column), dtype="Int64"), index=column.index)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return pd.Series(pd.array(_nulled(column), dtype="Float64"), index=column.index)
    return pd.Series([None if missing(value) else str(value) for value in column], index=column.index, dtype="string")


def _nulled(column: pd.Series) -> list[Any]:
    return [None if missing(value) else value for value in column]


def settings_frame(section: Section, comparisons: Sequence[Comparison] | None = None) -> pd.DataFrame:
    """One row a setting, best quality first: axes, shown options, seeds, quality, costs and the comparison."""
    rows = [_setting_row(section, setting) for setting in section.settings]
    for row, comparison in zip(rows, comparisons or [], strict=bool(comparisons)):
        row.update(comparison.row())
    # Columns of mixed content (rank 8 beside None) stay as they are: pandas would make 8.0 of them.
    frame = pd.DataFrame(rows, dtype=object)
    metric = section.key.metric
    descending = bool(metric and metric.higher_is_better)
    order = sorted(range(len(rows)), key=lambda index: _order(rows[index]["mean"], descending))
    return frame.iloc[order].reset_index(drop=True)


def _order(mean: float | None, descending: bool) -> tuple[bool, float]:
    return (mean is None, 0.0 if mean is None else -mean if descending else mean)


def _setting_row(section: Section, setting: Setting) -> dict[str, Any]:
    summary = summarize(_figures(setting, section.key.metric))
    low, high = (None, None) if summary.half is None else _around(summary)
    quality = {"mean": summary.mean, "sd": summary.sd, "half": summary.half, "low": low, "high": high}
    return {
        **{name: setting.axes.get(name) for name in AXES},
        **{name: setting.options.get(name) for name in section.extras},
        "seeds": summary.n,
        "planned": setting.planned,
        **quality,
        **{figure.name: summarize(_figures(setting, figure)).mean for figure in COSTS},
        "first_run": setting.runs[0].run_id,
    }


def _around(summary: Summary) -> tuple[float, float]:
    assert summary.mean is not None
    assert summary.half is not None
    return summary.mean - summary.half, summary.mean + summary.half


def _figures(setting: Setting, figure: Figure | None) -> list[Any]:
    return [run.metrics.get(figure.name) for run in setting.runs] if figure else []


def write(sweep: Sweep) -> None:
    """Write ``results.csv`` and ``results.parquet`` into the sweep folder, each in one step."""
    frame = runs_frame(sweep.records)
    write_atomically(sweep.folder / "results.csv", frame.to_csv(index=False, lineterminator="\n"))
    temporary = sweep.folder / f".results.parquet.{os.getpid()}"
    try:
        frame.to_parquet(temporary, index=False)
        os.replace(temporary, sweep.folder / "results.parquet")
    finally:
        temporary.unlink(missing_ok=True)
