"""Records as tables: one row a run (``results.csv``) and one row a setting (mean, deviation, interval)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from peftbench.files import replaced
from peftbench.record import Record
from peftbench.report.facts import measured_on
from peftbench.report.figures import ACHIEVED, COSTS, UNSTEADY, Figure, missing
from peftbench.report.options import flatten, texts, vary
from peftbench.report.sweep import AXES, Section, Setting, Sweep

if TYPE_CHECKING:
    import pyarrow as pa

    from peftbench.report.compare import Comparison

CONFIDENCE = 0.95
ENOUGH = 3
"""Seeds from which an interval is shown beside a mean."""
RUN_AXES = ("method", "dataset", "model", "rank", "sparsity", "ratio", "seed")


@dataclass(frozen=True)
class Summary:
    """Seeds of one setting: how many, their mean, standard deviation (n - 1), half the 95 % interval, and the ends."""

    n: int
    mean: float | None = None
    sd: float | None = None
    half: float | None = None
    least: float | None = None
    most: float | None = None

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """Ends of the 95 % interval."""
        if self.mean is None or self.half is None:
            return None, None
        return self.mean - self.half, self.mean + self.half

    @property
    def bar(self) -> tuple[float, float] | None:
        """What stands beside the mean: the interval from `ENOUGH` seeds on, the ends for two, nothing for one.

        The interval of two values is 6.4 times as long as their distance: correct, and of no use to a reader.
        """
        low, high = self.interval if self.n >= ENOUGH else (self.least, self.most)
        return None if self.n < 2 or low is None or high is None else (low, high)


def summarize(values: Sequence[Any]) -> Summary:
    """Summarize one figure over seeds; spread and interval (Student t) exist from two values on."""
    present = [float(value) for value in values if not missing(value)]
    n = len(present)
    if not n:
        return Summary(0)
    mean, ends = math.fsum(present) / n, (min(present), max(present))
    if n < 2:
        return Summary(n, mean, None, None, *ends)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in present) / (n - 1))
    return Summary(n, mean, sd, _quantile(n - 1) * sd / math.sqrt(n), *ends)


def summarized(setting: Setting, figure: Figure) -> Summary:
    """One figure of a setting over its seeds."""
    return summarize([run.metrics.get(figure.name) for run in setting.runs])


@lru_cache
def _quantile(freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def runs_table(records: Sequence[Record]) -> pa.Table:
    """One row a run, finished or not: id, axes, status, reason, every metric, the selection, and options that vary."""
    columns: dict[str, list[Any]] = {"run_id": [record.run_id for record in records]}
    columns |= _columns([record.axes for record in records], RUN_AXES)
    columns |= {name: [getattr(record, name) for record in records] for name in ("status", "reason")}
    columns |= _columns([record.metrics for record in records])
    columns |= _selection(records)
    columns |= _columns([measured_on(record) for record in records])
    columns |= {name: [getattr(record, name) for record in records] for name in ("started", "ended", "config_hash")}
    import pyarrow as pa

    return pa.table({name: _typed(values) for name, values in (columns | _options(records)).items()})


def _columns(rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Rows as columns by name, None where a row has none; the names ``first``, then all others as they come."""
    kinds = dict.fromkeys(map(tuple, rows))
    names = tuple(dict.fromkeys([*first, *(name for kind in kinds for name in kind)]))
    # Most rows have all names in this order: their values are taken as they lie.
    cells = (row.values() if tuple(row) == names else map(row.get, names) for row in rows)
    return dict(zip(names, map(list, zip(*cells, strict=True)), strict=True))


def _selection(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The step that was selected, and its validation figure under the figure's name: what a rate is chosen by."""
    selections = [record.selection for record in records]
    columns = {"selection/step": [selection.get("step") for selection in selections]}
    for metric in dict.fromkeys(selection["metric"] for selection in selections if "metric" in selection):
        columns[metric] = [one.get("value") if one.get("metric") == metric else None for one in selections]
    return columns


def _options(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The options that vary, as columns. A part of the configuration is taken apart once for all runs that share it."""
    found: dict[str, list[Any]] = {}
    for part in dict.fromkeys(name for record in records for name in record.config):
        values = [record.config.get(part) for record in records]
        keys = texts(values)
        flat = {key: flatten({"config": {part: value}}) for key, value in dict(zip(keys, values, strict=True)).items()}
        names = vary(list(flat.values()))
        ordered = (name for name in dict.fromkeys(name for one in flat.values() for name in one) if name in names)
        found |= {name: [flat[key].get(name) for key in keys] for name in ordered}
    return found


def _typed(column: list[Any]) -> pa.Array:
    """A column of one type that CSV and Parquet both keep: whole numbers, numbers, or text; NaN is null."""
    import pyarrow as pa

    kinds = set(map(type, column)) - {type(None)}
    if kinds <= {int}:
        return pa.array(column, type=pa.int64())
    if kinds <= {int, float}:
        return pa.array(column, type=pa.float64(), from_pandas=True)
    if kinds == {str}:
        return pa.array(column, type=pa.string())
    return pa.array([None if missing(value) else str(value) for value in column], type=pa.string())


def settings_frame(
    section: Section, comparisons: Sequence[Comparison] | None = None, settings: Sequence[Setting] | None = None
) -> pd.DataFrame:
    """One row a setting, best quality first: axes, shown options, seeds, quality, costs and the comparison.

    Args:
        settings: the rows, in the order of ``comparisons``; None is all settings of the section.
    """
    chosen = section.settings if settings is None else settings
    rows = [_setting_row(section, setting) for setting in chosen]
    for row, comparison in zip(rows, comparisons or [], strict=bool(comparisons)):
        row.update(comparison.row())
    # Columns of mixed content (rank 8 beside None) stay as they are: pandas would make 8.0 of them.
    frame = pd.DataFrame(rows, dtype=object)
    descending = section.key.metric.higher_is_better
    order = sorted(range(len(rows)), key=lambda index: _order(rows[index]["mean"], descending))
    return frame.iloc[order].reset_index(drop=True)


def _order(mean: float | None, descending: bool) -> tuple[bool, float]:
    return (mean is None, 0.0 if mean is None else -mean if descending else mean)


def _setting_row(section: Section, setting: Setting) -> dict[str, Any]:
    summary = summarized(setting, section.key.metric)
    low, high = summary.interval
    quality = {"mean": summary.mean, "sd": summary.sd, "half": summary.half, "low": low, "high": high}
    quality |= {"least": summary.least, "most": summary.most}
    costs = {figure.name: summarized(setting, figure) for figure in (ACHIEVED, *COSTS)}
    spreads = {name: _spread(setting, name, cost) for name, cost in costs.items()}
    return {
        **{name: setting.axes.get(name) for name in AXES},
        **{name: setting.options.get(name) for name in section.extras},
        "seeds": summary.n,
        "planned": setting.planned,
        **quality,
        **{name: cost.mean for name, cost in costs.items()},
        "unsteady": {name: spread for name, spread in spreads.items() if spread > UNSTEADY},
        "setting": setting,
    }


def _spread(setting: Setting, name: str, summary: Summary) -> float:
    """How far repeated measurements lie apart, as a share of their mean: those of one run, and those of the seeds."""
    ends = 0.0
    if summary.mean and summary.least is not None and summary.most is not None:
        ends = (summary.most - summary.least) / abs(summary.mean)
    return max([ends, *(run.spread.get(name) or 0.0 for run in setting.runs)])


def write(sweep: Sweep) -> None:
    """Write ``results.csv`` and ``results.parquet`` into the sweep folder, each in one step."""
    import pyarrow.csv
    import pyarrow.parquet

    runs = runs_table(sweep.records)
    with replaced(sweep.folder / "results.csv") as path:
        pyarrow.csv.write_csv(runs, path, pyarrow.csv.WriteOptions(quoting_style="needed"))
    with replaced(sweep.folder / "results.parquet") as path:
        pyarrow.parquet.write_table(runs, path)
