"""What the dashboard shows: panels over the figures of a record and the axes of a run, by their own names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from peftbench.glossary import validated

METHOD = "method.name"
AXES = ("rank.value", "sparsity.ratio", "trainer.lr")
"""Paths in a run's resolved configuration."""
MEMORY = "memory/train_peak_bytes"
SPEED = "speed/train_tokens_per_s"
LATENCY = "speed/infer_latency_ms_p50"
SIZE = "size/adapter_bytes"
CURVES = ("train/loss", "train/tokens_per_s", "train/memory_bytes")
SMALLER_IS_BETTER = ("loss", "perplexity")


@dataclass(frozen=True)
class Place:
    """Where a dashboard goes, and of which runs it tells."""

    entity: str
    project: str
    sweep: str
    quality: str = "quality/accuracy"

    @property
    def view_name(self) -> str:
        """W&B's name of the workspace: always the same for a sweep, so that it is found again."""
        return f"nw-{hashlib.sha256(self.sweep.encode()).hexdigest()[:11]}-v"

    @property
    def title(self) -> str:
        """What the workspace and the report are called."""
        return f"peftbench: {self.sweep}"[:128]


def workspace(place: Place) -> ws.Workspace:
    """One workspace a sweep, its runs grouped by method."""
    return ws.Workspace(
        entity=place.entity,
        project=place.project,
        name=place.title,
        sections=[
            ws.Section(name="Comparison", panels=[*bars(place)], is_open=True),
            ws.Section(name="Trade-offs", panels=[*fronts(place)], is_open=True),
            ws.Section(name="Axes", panels=[coordinates(place)], is_open=True),
            ws.Section(name="Curves", panels=[*curves(place)], is_open=True),
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == place.sweep), groupby=[expr.Config(METHOD)]
        ),
        auto_generate_panels=False,
    )


def report(place: Place) -> wr.Report:
    """The same panels as a page with words between them."""
    return wr.Report(
        entity=place.entity,
        project=place.project,
        title=place.title,
        description=f"Runs of the sweep {place.sweep}, grouped by method; figures as in docs/metrics.md.",
        blocks=[
            wr.H1("Comparison"),
            wr.P(f"Mean over runs of each method; the bars of {place.quality} carry the standard error."),
            _grid(place, bars(place)),
            wr.H1("Trade-offs"),
            wr.P("One point a run. Which differences are more than chance is in the sweep's own report.html."),
            _grid(place, fronts(place)),
            wr.H1("Axes"),
            _grid(place, [coordinates(place)]),
            wr.H1("Curves"),
            _grid(place, curves(place)),
        ],
        width="fluid",
    )


def bars(place: Place) -> list[Any]:
    """Quality, memory, throughput and adapter size by method."""
    return [
        wr.BarPlot(
            title=figure,
            metrics=[wr.SummaryMetric(figure)],
            groupby=wr.Config(METHOD),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            layout=_half(number),
        )
        for number, figure in enumerate((place.quality, MEMORY, SPEED, SIZE))
    ]


def fronts(place: Place) -> list[Any]:
    """Quality against each cost; the running extreme of quality is the Pareto front as far as W&B draws one."""
    smaller = place.quality.endswith(SMALLER_IS_BETTER)
    return [
        wr.ScatterPlot(
            title=f"{place.quality} against {cost}",
            x=wr.SummaryMetric(cost),
            y=wr.SummaryMetric(place.quality),
            log_x=cost != LATENCY,
            running_ymin=smaller,
            running_ymax=not smaller,
            layout=_half(number),
        )
        for number, cost in enumerate((MEMORY, SPEED, SIZE, LATENCY))
    ]


def coordinates(place: Place) -> wr.ParallelCoordinatesPlot:
    """Method, rank, sparsity and learning rate, and the quality that came of them."""
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(path), log=path == "trainer.lr") for path in (METHOD, *AXES)]
    figure = wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(place.quality))
    return wr.ParallelCoordinatesPlot(title="Axes", columns=[*axes, figure], layout=wr.Layout(w=24, h=10))


def curves(place: Place) -> list[Any]:
    """Loss, validation quality, throughput and memory over optimizer steps."""
    return [
        wr.LinePlot(title=figure, x="step", y=[figure], layout=_half(number))
        for number, figure in enumerate((validated(place.quality), *CURVES))
    ]


def _grid(place: Place, panels: list[Any]) -> wr.PanelGrid:
    # With a project the package looks its number up; without an entity there is none to look it up with.
    project = place.project if place.entity else ""
    runs = wr.Runset(
        entity=place.entity,
        project=project,
        name=place.sweep,
        filters=expr.And(expr.Metric("Group") == place.sweep),
        groupby=[f"config.{METHOD}"],
    )
    return wr.PanelGrid(runsets=[runs], panels=panels)


def _half(number: int) -> wr.Layout:
    """Two panels a row on W&B's grid of 24 columns."""
    return wr.Layout(x=12 * (number % 2), y=8 * (number // 2), w=12, h=8)
