"""One drawing as inline SVG: drawn by matplotlib, coloured by the page's style sheet, with words for each mark."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

INK = "#010203"
"""Stands for currentColor until the drawing is done: matplotlib has no such colour."""
SERIES = tuple(f"#0102{index:02x}" for index in range(0x10, 0x16))
"""Stand for the style sheet's --s0 ... --s5, which differ between light and dark."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1)))
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    # An axis reads "1.205", not "0.0003" with "+1.205" in the corner.
    "axes.formatter.useoffset": False,
}
WIDTH, HEIGHT = 4.5, 3.6
"""Inches, with a legend of two rows."""
TWO_ROWS = 0.45
LETTERS, COLUMNS = 30, 4
"""Of a name, and of a legend, at most; one column has room for any name of so many letters."""
SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Chart:
    """One drawing and what it shows."""

    title: str
    svg: str
    note: str = ""
    """What bars, bands and lines mean."""


class Drawing:
    """One pair of axes that remembers what each mark says. A series has a colour, a marker and a dash of its own."""

    def __init__(self, title: str, series: Sequence[str], note: str = "") -> None:
        self.title, self.note = title, note
        self.canvas = Canvas(figsize=(WIDTH, HEIGHT), layout="constrained")
        self.axes: Axes = self.canvas.add_subplot()
        self.hints: dict[str, str] = {}
        self.shown: set[str] = set()
        self.bars: list[tuple[float, float, float, str]] = []
        self.lines = False
        self.styles = {name: _style(index) for index, name in enumerate(series)}

    def point(self, series: str, x: float, y: float, hint: str, bar: tuple[float, float] | None = None) -> None:
        """A mark of its series, with a bar from low to high where there is one."""
        style = self.styles[series]
        if bar is not None and bar[0] < bar[1]:
            self.bars.append((x, *bar, style["color"]))
        self._mark(series, [x], [y], hint, linestyle="none", marker=style["marker"])

    def line(self, series: str, x: Sequence[float], y: Sequence[float], hint: str = "", **style: Any) -> None:
        """A line of its series; one with a hint is a mark."""
        self.lines = True
        style = {"linestyle": self.styles[series]["linestyle"], "linewidth": 1.2, **style}
        if hint:
            self._mark(series, x, y, hint, **style)
        else:
            self.axes.plot(x, y, color=self.styles[series]["color"], **style)

    def band(self, series: str, x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> None:
        """The area between two lines, in its series' colour."""
        self.axes.fill_between(x, low, high, color=self.styles[series]["color"], alpha=0.13, linewidth=0)

    def finish(self, identity: str) -> Chart:
        """Add the legend and return the drawing as SVG for the inside of an HTML page."""
        if self.bars:
            # All at once: a drawing of hundreds of points takes seconds bar by bar.
            x, low, high, colours = zip(*self.bars, strict=True)
            # A list: of a pair of colours matplotlib takes the second for how opaque the first is.
            self.axes.vlines(x, low, high, colors=list(colours), linewidth=1.2, alpha=0.5)
        buffer = io.BytesIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}), warnings.catch_warnings():
            # The SVG has letters, not shapes: the reader's font has those that matplotlib's lacks.
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
            self._legend()
            self.canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return Chart(self.title, _inline(buffer.getvalue(), self.hints, self.title), self.note)

    def _legend(self) -> None:
        """In as many columns as are no wider than the drawing, which grows by what more than two rows take."""
        used = {name: style for name, style in self.styles.items() if name in self.shown}
        lines = {} if self.lines else {"linestyle": "none"}
        shown = [mpl.lines.Line2D([], [], label=_short(name), **{**style, **lines}) for name, style in used.items()]
        for columns in range(COLUMNS, 0, -1):
            legend = self.canvas.legend(
                handles=shown,
                loc="outside lower center",
                ncols=columns,
                frameon=False,
                fontsize=9,
                handlelength=2.4 if self.lines else 1,
                columnspacing=1.2,
                handletextpad=0.5,
            )
            box = legend.get_window_extent()
            if box.width <= self.canvas.bbox.width or columns == 1:
                break
            legend.remove()
        self.canvas.set_figheight(HEIGHT + max(box.height / self.canvas.dpi - TWO_ROWS, 0))

    def _mark(self, series: str, x: Sequence[float], y: Sequence[float], hint: str, **style: Any) -> None:
        name = f"mark{len(self.hints)}"
        self.hints[name] = hint
        self.shown.add(series)
        self.axes.plot(x, y, gid=name, color=self.styles[series]["color"], **style)


def _short(name: str) -> str:
    """A name as a legend has room for; dollars would be read as formulas."""
    return (name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…").replace("$", r"\$")


def _style(index: int) -> dict[str, Any]:
    colour, marker, dash = (values[index % len(values)] for values in (SERIES, MARKERS, DASHES))
    return {"color": colour, "marker": marker, "linestyle": dash}


def _inline(svg: bytes, hints: Mapping[str, str], title: str) -> str:
    """The SVG without what only a file of its own needs, with hover titles, and with the page's colours."""
    root = ET.fromstring(svg)
    for metadata in root.findall(f"{SVG}metadata"):
        root.remove(metadata)
    used = set(re.findall(r"#([\w-]+)", svg.decode()))
    for element in root.iter():
        hint = hints.get(element.get("id", ""))
        if hint is not None:
            element.set("class", "mark")
            title_element = ET.Element(f"{SVG}title")
            title_element.text = hint
            element.insert(0, title_element)
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
