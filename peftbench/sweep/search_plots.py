"""Pictures of a search, drawn by Optuna from the study: history, importances or Pareto front."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from peftbench.sweep.search_options import SearchOptions

FOLDER = "plots"


def write_plots(study: Study, settings: SearchOptions, folder: Path) -> Path | None:
    """Write ``plots/*.png`` into the sweep folder; what cannot be drawn yet is left out, and None is nothing."""
    import matplotlib
    import optuna

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        for name, draw in _plots(study, settings):
            try:
                axes = draw()
            except (ValueError, RuntimeError):
                continue  # too few trials, or all of them alike
            written = folder / FOLDER
            written.mkdir(exist_ok=True)
            figure = getattr(axes, "figure", None) or axes.flat[0].figure
            figure.savefig(written / f"{name}.png", dpi=120, bbox_inches="tight")
            pyplot.close(figure)
    return written


def _plots(study: Study, settings: SearchOptions) -> Iterator[tuple[str, Callable[[], Any]]]:
    from optuna.visualization import matplotlib as draw

    metrics = [objective.metric for objective in settings.objectives]
    for index, metric in enumerate(metrics):
        name = metric.replace("/", "_")
        history = partial(draw.plot_optimization_history, target=partial(_value, index), target_name=metric)
        importance = partial(draw.plot_param_importances, target=cost(settings, index), target_name=metric)
        yield f"history-{name}", partial(history, study)
        yield f"importance-{name}", partial(importance, study)
    if len(metrics) == 2:
        yield "pareto", lambda: draw.plot_pareto_front(study, target_names=metrics)
    if settings.pruner != "none":
        yield "reports", lambda: draw.plot_intermediate_values(study)


def _value(index: int, trial: FrozenTrial) -> float:
    return float(trial.values[index])


def cost(settings: SearchOptions, index: int) -> Callable[[FrozenTrial], float]:
    """An objective of a trial, lower being better: Optuna asks which parameters bring a target down."""
    sign = -1.0 if settings.objectives[index].direction == "maximize" else 1.0
    return lambda trial: sign * float(trial.values[index])
