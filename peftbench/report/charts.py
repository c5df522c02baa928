"""Charts as inline SVG: drawn by matplotlib, coloured by the page's style sheet, with a title to hover on each mark."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from peftbench.report.figures import COSTS, Figure, missing, number, scale, score
from peftbench.report.sweep import Section, Setting
from peftbench.report.table import Summary, summarize

AGAINST = ("memory/train_peak_bytes", "speed/train_tokens_per_s", "size/adapter_bytes")
INK = "#010203"
"""Stands for currentColor until the drawing is done: matplotlib has no such colour."""
SERIES = tuple(f"#0102{index:02x}" for index in range(0x10, 0x16))
"""Stand for the style sheet's --s0 ... --s5, which differ between light and dark."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    # An axis reads "1.205", not "0.0003" with "+1.205" in the corner.
    "axes.formatter.useoffset": False,
}
SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Chart:
    """One drawing and what it shows."""

    title: str
    svg: str


class Drawing:
    """One pair of axes that remembers what each mark says when the mouse rests on it."""

    def __init__(self, section: Section, title: str) -> None:
        self.section, self.title = section, title
        self.canvas = Canvas(figsize=(4.5, 3.4), layout="constrained")
        self.axes: Axes = self.canvas.add_subplot()
        self.hints: dict[str, str] = {}
        methods = sorted({str(setting.axes["method"]) for setting in section.settings})
        self.styles = {name: _style(index) for index, name in enumerate(methods)}

    def mark(self, setting: Setting, x: Any, y: Any, hint: str, **style: Any) -> None:
        """Draw a point or a line of one setting in its method's colour and shape."""
        name = f"mark{len(self.hints)}"
        self.hints[name] = hint
        self.axes.plot(x, y, gid=name, **{**self.styles[str(setting.axes["method"])], **style})

    def finish(self, identity: str) -> Chart:
        """Add the legend and return the drawing as SVG for the inside of an HTML page."""
        shown = [mpl.lines.Line2D([], [], label=name, **style) for name, style in self.styles.items()]
        self.canvas.legend(
            handles=shown, loc="outside lower center", ncols=min(len(shown), 4), frameon=False, fontsize=8
        )
        buffer = io.BytesIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
            self.canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return Chart(self.title, _inline(buffer.getvalue(), self.hints, self.title))


def draw(section: Section, identity: str) -> list[Chart]:
    """All charts of a section that there are two different points for; ``identity`` is unique on the page."""
    metric = section.key.metric
    if metric is None:
        return []
    costs = [figure for figure in COSTS if figure.name in AGAINST]
    with mpl.rc_context(STYLE):
        drawings = [_scatter(section, metric, cost) for cost in costs]
        drawings += [_ranks(section, metric), _curves(section, metric)]
        return [drawing.finish(f"{identity}-{index}") for index, drawing in enumerate(drawings) if drawing]


def _style(index: int) -> dict[str, Any]:
    return {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)], "linestyle": "none"}


def _summary(setting: Setting, figure: Figure) -> Summary:
    return summarize([run.metrics.get(figure.name) for run in setting.runs])


def _shown(metric: Figure) -> float:
    return 100.0 if metric.kind == "percent" else 1.0


def _label(figure: Figure, unit: str) -> str:
    return f"{figure.label}, {unit}" if unit else figure.label


def _hint(setting: Setting, metric: Figure, summary: Summary) -> str:
    half = "" if summary.half is None else f" ± {score(metric, summary.half)}"
    return f"{setting.label}: {metric.label} {score(metric, summary.mean)}{half}, {summary.n} seeds"


def _scatter(section: Section, metric: Figure, cost: Figure) -> Drawing | None:
    """Quality against a cost, with the 95 % interval over seeds."""
    points = [(setting, _summary(setting, metric), _summary(setting, cost).mean) for setting in section.settings]
    points = [point for point in points if point[1].mean is not None and point[2] is not None]
    if len({x for *_, x in points}) < 2:
        return None
    divisor, unit = scale(cost.kind, [x for *_, x in points])
    drawing = Drawing(section, f"{metric.label} against {cost.label}")
    for setting, summary, x in points:
        hint = f"{_hint(setting, metric, summary)}; {cost.label} {number(x, divisor)} {unit}"
        _point(drawing, setting, float(x or 0) / divisor, summary, metric, hint)
    _name_axes(drawing.axes, _label(cost, unit), metric)
    _scale_costs(drawing.axes, [float(x or 0) / divisor for *_, x in points])
    return drawing


def _scale_costs(axes: Axes, values: list[float]) -> None:
    """From zero, so that a small difference looks small, or logarithmic where sizes differ twentyfold."""
    if 0 < 20 * min(values) < max(values):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0, right=1.08 * max(values))
    axes.xaxis.set_major_formatter("{x:,g}")


def _point(drawing: Drawing, setting: Setting, x: float, summary: Summary, metric: Figure, hint: str) -> None:
    factor = _shown(metric)
    y, colour = (summary.mean or 0.0) * factor, drawing.styles[str(setting.axes["method"])]["color"]
    if summary.half:
        drawing.axes.errorbar([x], [y], yerr=[summary.half * factor], color=colour, capsize=2, linewidth=1, alpha=0.6)
    drawing.mark(setting, [x], [y], hint)


def _name_axes(axes: Axes, x: str, metric: Figure) -> None:
    axes.set_xlabel(x)
    better = "higher is better" if metric.higher_is_better else "lower is better"
    unit = scale(metric.kind, [])[1]
    axes.set_ylabel(f"{_label(metric, unit)} ({better})")


def _ranks(section: Section, metric: Figure) -> Drawing | None:
    """Quality against rank: one line for settings that differ in nothing else."""
    lines = _lines(section, lambda setting: _but_rank(setting, section.extras))
    if not lines:
        return None
    drawing = Drawing(section, f"{metric.label} against rank")
    for line in lines:
        summaries = [_summary(setting, metric) for setting in line]
        colour = drawing.styles[str(line[0].axes["method"])]["color"]
        x = [setting.axes["rank"] for setting in line]
        drawing.axes.plot(x, [(one.mean or 0) * _shown(metric) for one in summaries], color=colour, linewidth=1)
        for setting, summary in zip(line, summaries, strict=True):
            _point(drawing, setting, setting.axes["rank"], summary, metric, _hint(setting, metric, summary))
    _name_axes(drawing.axes, "rank", metric)
    drawing.axes.set_xscale("log", base=2)
    ranks = sorted({setting.axes["rank"] for line in lines for setting in line})
    drawing.axes.set_xticks(ranks, [str(rank) for rank in ranks])
    drawing.axes.minorticks_off()
    return drawing


def _but_rank(setting: Setting, extras: tuple[str, ...]) -> Hashable:
    others = [setting.options.get(name) for name in extras if not name.startswith("rank.")]
    return repr([setting.axes["method"], setting.axes["sparsity"], setting.axes["ratio"], *others])


def _lines(section: Section, same: Callable[[Setting], Hashable]) -> list[list[Setting]]:
    groups: dict[Hashable, list[Setting]] = {}
    for setting in section.settings:
        measured = section.key.metric and _summary(setting, section.key.metric).mean is not None
        if setting.axes["rank"] is not None and measured:
            groups.setdefault(same(setting), []).append(setting)
    ordered = [sorted(group, key=lambda setting: setting.axes["rank"]) for group in groups.values()]
    return [line for line in ordered if line[0].axes["rank"] < line[-1].axes["rank"]]


def _curves(section: Section, metric: Figure) -> Drawing | None:
    """Validation reports during training, the mean over the seeds that reported at a step."""
    drawing = Drawing(section, f"{metric.label} on validation during training")
    for setting in section.settings:
        reports: dict[float, list[float]] = {}
        for report in (report for run in setting.runs for report in run.history):
            if not missing(report.get("step")) and not missing(report.get(metric.name)):
                reports.setdefault(report["step"], []).append(float(report[metric.name]))
        if len(reports) > 1:
            means = [sum(reports[step]) / len(reports[step]) * _shown(metric) for step in sorted(reports)]
            hint = f"{setting.label}: mean of up to {len(setting.runs)} seeds"
            drawing.mark(setting, sorted(reports), means, hint, linestyle="-", linewidth=1.2, markersize=3, alpha=0.8)
    _name_axes(drawing.axes, "optimizer step", metric)
    return drawing if drawing.hints else None


def _inline(svg: bytes, hints: Mapping[str, str], title: str) -> str:
    """The SVG without what only a file of its own needs, with hover titles, and with the page's colours."""
    root = ET.fromstring(svg)
    for metadata in root.findall(f"{SVG}metadata"):
        root.remove(metadata)
    used = set(re.findall(r"#([\w-]+)", svg.decode()))
    for element in root.iter():
        hint = hints.get(element.get("id", ""))
        if hint is not None:
            ET.SubElement(element, f"{SVG}title").text = hint
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return _coloured(_without_namespaces(ET.tostring(root, encoding="unicode")))


def _without_namespaces(text: str) -> str:
    """Tags and links as HTML expects them: it knows SVG by name, not by namespace."""
    prefixes = dict(re.findall(r'xmlns:(\w+)="([^"]*)"', text))
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    for prefix, address in prefixes.items():
        pattern = rf"(</?){prefix}:" if address.endswith("svg") else rf"( ){prefix}:(?=href=)"
        text = re.sub(pattern, r"\1", text)
    return text


def _coloured(text: str) -> str:
    text = text.replace(INK, "currentColor")
    for index, colour in enumerate(SERIES):
        text = text.replace(colour, f"var(--s{index})")
    return text
