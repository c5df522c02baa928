"""The charts of a section: quality against each cost with its Pareto front, against rank, against sparsity, in time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from peftbench.report.drawing import STYLE, Chart, Drawing
from peftbench.report.figures import ACHIEVED, COSTS, Figure, missing, number, possible, scale, score
from peftbench.report.sweep import Setting
from peftbench.report.table import ENOUGH, Summary, summarized
from peftbench.report.view import View

AGAINST = ("memory/train_peak_bytes", "speed/train_tokens_per_s", "size/adapter_bytes")
CURVES = 12
"""Settings whose curves are drawn: more cannot be told apart."""
TENFOLD = 10
"""A ratio from which an axis is logarithmic."""
NARROW = 0.2
"""The least share of its largest value that a cost axis spans, so that a small difference looks small."""


def draw(view: View, identity: str) -> list[Chart]:
    """All charts of a section that there are two different points for; ``identity`` is unique on the page."""
    metric = view.section.key.metric
    costs = [figure for figure in COSTS if figure.name in AGAINST]
    with mpl.rc_context(STYLE):
        drawings = [_scatter(view, metric, cost) for cost in costs]
        drawings += [_ranks(view, metric), _sparsities(view, metric), _curves(view, metric)]
        return [drawing.finish(f"{identity}-{index}") for index, drawing in enumerate(drawings) if drawing]


def front(points: Sequence[tuple[float, float]], *, higher_x: bool, higher_y: bool) -> list[int]:
    """Indices of the points that no other one beats or equals in both, unless it equals in both; by x.

    Args:
        points: (cost, quality) each.
        higher_x: whether more is better; the same for y.
    """
    signs = (1 if higher_x else -1, 1 if higher_y else -1)
    gains = [(signs[0] * x, signs[1] * y) for x, y in points]

    def beaten(index: int) -> bool:
        x, y = gains[index]
        return any(a >= x and b >= y and (a > x or b > y) for a, b in gains)

    return sorted((index for index in range(len(points)) if not beaten(index)), key=lambda index: points[index])


def _drawing(view: View, title: str, note: str = "") -> Drawing:
    return Drawing(title, sorted({_method(setting) for setting in view.settings}), note)


def _method(setting: Setting) -> str:
    return str(setting.axes["method"])


def _factor(metric: Figure) -> float:
    return 100.0 if metric.kind == "percent" else 1.0


def _bar(metric: Figure, summary: Summary) -> tuple[float, float] | None:
    if summary.bar is None:
        return None
    # Student's interval knows no ends: what no run can reach is not drawn.
    least, most = possible(metric)
    return max(summary.bar[0], least) * _factor(metric), min(summary.bar[1], most) * _factor(metric)


def _label(figure: Figure, unit: str) -> str:
    return f"{figure.label}, {unit}" if unit else figure.label


def _bars(settings: Sequence[Setting], kind: str) -> str:
    """What the bars or bands of these settings are."""
    seeds = {len(setting.runs) for setting in settings}
    means = ["95 % interval over seeds"] * (max(seeds) >= ENOUGH) + ["lowest and highest of two seeds"] * (2 in seeds)
    return f"{kind}: {' or '.join(means)}." if means else ""


def _hint(setting: Setting, metric: Figure, summary: Summary) -> str:
    half = f" ± {score(metric, summary.half)}" if summary.n >= ENOUGH else ""
    rate = setting.options.get("trainer.lr")
    recipe = "" if rate is None else f", learning rate {rate:g}"
    seeds = f"{summary.n} seed{'s' if summary.n != 1 else ''}"
    return f"{setting.label}: {metric.label} {score(metric, summary.mean)}{half}, {seeds}{recipe}"


def _scatter(view: View, metric: Figure, cost: Figure) -> Drawing | None:
    """Quality against a cost; a line joins the settings that no other one beats in both."""
    found = [(setting, summarized(setting, metric), summarized(setting, cost).mean) for setting in view.settings]
    divisor, unit = scale(cost.kind, [x for *_, x in found])
    points = [
        (setting, summary, x / divisor, summary.mean * _factor(metric))
        for setting, summary, x in found
        if x is not None and summary.mean is not None
    ]
    if len({x for _, _, x, _ in points}) < 2:
        return None
    best = front([(x, y) for *_, x, y in points], higher_x=cost.higher_is_better, higher_y=metric.higher_is_better)
    note = f"Line: Pareto front, by the means. {_bars([setting for setting, *_ in points], 'Bars')}"
    drawing = _drawing(view, f"{metric.label} against {cost.label}", note)
    drawing.axes.plot(
        [points[i][2] for i in best], [points[i][3] for i in best], color=STYLE["text.color"], linewidth=1, alpha=0.5
    )
    for index, (setting, summary, x, y) in enumerate(points):
        end = "; on the front" if index in best else ""
        hint = f"{_hint(setting, metric, summary)}; {cost.label} {number(x)} {unit}".rstrip() + end
        drawing.point(_method(setting), x, y, hint, _bar(metric, summary))
    _name_axes(drawing.axes, f"{_label(cost, unit)} ({_better(cost)})", metric)
    _scale_costs(drawing.axes, [x for _, _, x, _ in points])
    return drawing


def _scale_costs(axes: Axes, values: list[float]) -> None:
    """Never so narrow that a small difference looks large; logarithmic where sizes differ tenfold."""
    low, high = min(values), max(values)
    if 0 < TENFOLD * low < high:
        axes.set_xscale("log")
    else:
        rest = max(NARROW * high - (high - low), 0) / 2
        margin = 0.05 * max(high - low, NARROW * high)
        axes.set_xlim(max(low - rest - margin, 0), high + rest + margin)
    axes.xaxis.set_major_formatter("{x:,g}")


def _better(figure: Figure) -> str:
    return "higher is better" if figure.higher_is_better else "lower is better"


def _name_axes(axes: Axes, x: str, metric: Figure) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(f"{_label(metric, scale(metric.kind, [])[1])} ({_better(metric)})")
    low, high = axes.get_ylim()
    if metric.kind == "plain" and high > TENFOLD * max(low, 1.0):
        # A network that has diverged would leave the others on one line.
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(low, 1.0))
        axes.yaxis.set_major_formatter("{x:,g}")


def _ranks(view: View, metric: Figure) -> Drawing | None:
    """Quality against rank: one line for settings that differ in nothing else."""
    settings = [setting for setting in view.settings if setting.axes["rank"] is not None]
    lines = _lines(view, metric, settings, lambda setting: setting.axes["rank"], ("rank.",), ("sparsity", "ratio"))
    if not lines:
        return None
    drawing = _drawing(view, f"{metric.label} against rank")
    _draw_lines(drawing, metric, lines, lambda setting: float(setting.axes["rank"]))
    _name_axes(drawing.axes, "rank", metric)
    drawing.axes.set_xscale("log", base=2)
    ranks = sorted({setting.axes["rank"] for line in lines for setting in line})
    drawing.axes.set_xticks(ranks, [str(rank) for rank in ranks])
    drawing.axes.minorticks_off()
    return drawing


def _sparsities(view: View, metric: Figure) -> Drawing | None:
    """Quality against the sparsity that was counted in the saved adapter."""
    settings = [setting for setting in view.settings if summarized(setting, ACHIEVED).mean is not None]

    def achieved(setting: Setting) -> float:
        return 100 * (summarized(setting, ACHIEVED).mean or 0.0)

    lines = _lines(view, metric, settings, achieved, ("sparsity.ratio",), ("rank", "sparsity"))
    if not lines:
        return None
    drawing = _drawing(view, f"{metric.label} against sparsity")
    _draw_lines(drawing, metric, lines, achieved)
    _name_axes(drawing.axes, "achieved sparsity, %", metric)
    return drawing


def _lines(
    view: View,
    metric: Figure,
    settings: Sequence[Setting],
    x: Callable[[Setting], float],
    free: tuple[str, ...],
    fixed: tuple[str, ...],
) -> list[list[Setting]]:
    """Settings of one method that differ in ``free`` options only, ordered by x: lines of two different x or more."""
    groups: dict[Hashable, list[Setting]] = {}
    for setting in settings:
        if summarized(setting, metric).mean is not None:
            others = [setting.options.get(name) for name in view.section.extras if not name.startswith(free)]
            same = repr([setting.axes["method"], *(setting.axes[name] for name in fixed), *others])
            groups.setdefault(same, []).append(setting)
    ordered = [sorted(group, key=x) for group in groups.values()]
    return [line for line in ordered if x(line[0]) < x(line[-1])]


def _draw_lines(drawing: Drawing, metric: Figure, lines: list[list[Setting]], x: Callable[[Setting], float]) -> None:
    drawing.note = _bars([setting for line in lines for setting in line], "Bands")
    for line in lines:
        series, at = _method(line[0]), [x(setting) for setting in line]
        summaries = [summarized(setting, metric) for setting in line]
        means = [(summary.mean or 0.0) * _factor(metric) for summary in summaries]
        bars = [_bar(metric, summary) or (mean, mean) for summary, mean in zip(summaries, means, strict=True)]
        drawing.band(series, at, [low for low, _ in bars], [high for _, high in bars])
        drawing.line(series, at, means)
        for setting, summary, here, mean in zip(line, summaries, at, means, strict=True):
            drawing.point(series, here, mean, _hint(setting, metric, summary))


def _curves(view: View, metric: Figure) -> Drawing | None:
    """Validation reports during training, the mean over the seeds that reported at a step."""
    curves = [(setting, curve) for setting in view.settings if len(curve := _curve(setting, metric)) > 1]
    if not curves:
        return None
    sign = 1 if metric.higher_is_better else -1
    last = sorted(curves, key=lambda pair: -sign * pair[1][max(pair[1])])[:CURVES]
    cut = "" if len(curves) <= CURVES else f"The {CURVES} of {len(curves)} settings that ended best. "
    drawing = _drawing(
        view, f"{metric.label} on validation during training", f"{cut}A line a setting: the mean over its seeds."
    )
    for setting, curve in last:
        hint = f"{setting.label}: {metric.label} {score(metric, curve[max(curve)])} on validation at the end"
        y = [curve[step] * _factor(metric) for step in sorted(curve)]
        marker = drawing.styles[_method(setting)]["marker"]
        drawing.line(_method(setting), sorted(curve), y, hint, marker=marker, markersize=3.5, alpha=0.85)
    _name_axes(drawing.axes, "optimizer step", metric)
    drawing.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawing


def _curve(setting: Setting, metric: Figure) -> dict[float, float]:
    reports: dict[float, list[float]] = {}
    for report in (report for run in setting.runs for report in run.history):
        if not missing(report.get("step")) and not missing(report.get(metric.validation)):
            reports.setdefault(report["step"], []).append(float(report[metric.validation]))
    return {step: sum(values) / len(values) for step, values in reports.items()}
