"""The part of the page that a sweep has if it was a search: what was best, how it went, which dimensions mattered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.ticker import MaxNLocator

from peftbench.report import SEARCH
from peftbench.report.charts import front
from peftbench.report.drawing import STYLE, Chart, Drawing

FINISHED, BEYOND = "trials", "beyond a constraint"


@dataclass(frozen=True)
class Search:
    """What the page says of a search."""

    lines: tuple[str, ...]
    again: str | None
    """The command that runs the best configuration."""
    charts: tuple[Chart, ...]


def load(folder: Path) -> Search | None:
    """The search of a sweep folder; None if it was none, or its ``search.json`` cannot be read."""
    try:
        about = json.loads((folder / SEARCH).read_text(encoding="utf-8"))
        with mpl.rc_context(STYLE):
            return Search(tuple(_lines(about)), about["again"], tuple(_charts(about)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lines(about: Mapping[str, Any]) -> list[str]:
    objectives = [f"{objective['direction']} {objective['metric']}" for objective in about["objectives"]]
    said = " with ".join([" and ".join(objectives), *filter(None, [" and ".join(about["constraints"])])])
    lines = [f"{len(about['trials'])} trials to {said}."]
    best = [trial for trial in about["trials"] if trial["number"] in about["best"]]
    what, alike = "Pareto set", ""
    if len(objectives) == 1:
        what, alike = "Best", f" and {len(best) - 1} more with the same figure" if len(best) > 1 else ""
        best = best[:1]
    for trial in best:
        figures = {o["metric"]: v for o, v in zip(about["objectives"], trial["values"], strict=True)}
        told = _pairs(figures | trial["params"])
        lines.append(f"{what}: trial {trial['number']}{alike}, {told} ({trial['run_id']}).")
    for metric, shares in about["importances"].items():
        lines.append(f"Importance for {metric}: {', '.join(f'{name} {100 * s:.0f} %' for name, s in shares.items())}.")
    return lines


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {v:.6g}" if isinstance(v, float) else f"{name} {v}" for name, v in values.items())


def _charts(about: Mapping[str, Any]) -> list[Chart]:
    finished = [trial for trial in about["trials"] if trial["values"]]
    if len(finished) < 2:
        return []
    objectives = about["objectives"]
    charts = [_history(objective, index, finished) for index, objective in enumerate(objectives)]
    return [*charts, _pareto(objectives, finished)] if len(objectives) == 2 else charts


def _history(objective: Mapping[str, str], index: int, trials: Sequence[Mapping[str, Any]]) -> Chart:
    """An objective by trial, and the best one so far as a line."""
    drawing = _drawing(f"{objective['metric']} by trial", "Line: the best so far.")
    better = max if objective["direction"] == "maximize" else min
    so_far: list[tuple[int, float]] = []
    for trial in trials:
        value = trial["values"][index]
        _mark(drawing, trial, trial["number"], value)
        if trial["kept"]:
            so_far.append((trial["number"], better([value, *(y for _, y in so_far[-1:])])))
    if so_far:
        drawing.axes.step(*zip(*so_far, strict=True), where="post", color=STYLE["text.color"], linewidth=1, alpha=0.5)
    drawing.axes.set_xlabel("trial")
    drawing.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawing.axes.set_ylabel(_label(objective))
    return drawing.finish(f"search-{index}")


def _pareto(objectives: Sequence[Mapping[str, str]], trials: Sequence[Mapping[str, Any]]) -> Chart:
    """Two objectives against each other; a line joins the trials that no other one beats in both."""
    kept = [trial for trial in trials if trial["kept"]]
    drawing = _drawing(f"{objectives[0]['metric']} against {objectives[1]['metric']}", "Line: the Pareto set.")
    for trial in trials:
        _mark(drawing, trial, trial["values"][1], trial["values"][0])
    points = [(trial["values"][1], trial["values"][0]) for trial in kept]
    higher = [objective["direction"] == "maximize" for objective in objectives]
    best = [points[i] for i in front(points, higher_x=higher[1], higher_y=higher[0])]
    if best:
        drawing.axes.plot(*zip(*best, strict=True), color=STYLE["text.color"], linewidth=1, alpha=0.5)
    drawing.axes.set_xlabel(_label(objectives[1]))
    drawing.axes.set_ylabel(_label(objectives[0]))
    return drawing.finish("search-pareto")


def _drawing(title: str, note: str) -> Drawing:
    return Drawing(title, (FINISHED, BEYOND), note)


def _mark(drawing: Drawing, trial: Mapping[str, Any], x: float, y: float) -> None:
    hint = f"trial {trial['number']}: {y:.6g}; {_pairs(trial['params'])}"
    drawing.point(FINISHED if trial["kept"] else BEYOND, x, y, hint)


def _label(objective: Mapping[str, str]) -> str:
    return f"{objective['metric']} ({'higher' if objective['direction'] == 'maximize' else 'lower'} is better)"
