"""What a search has found: ``best.yaml`` for one objective, the Pareto set for several."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from peftbench.record import read, write_atomically
from peftbench.sweep.search_plots import cost, write_plots

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from peftbench.sweep.search_options import SearchOptions

BEST = "best.yaml"
HYDRA_DEFAULTS = [
    {"override hydra/sweeper": "peftbench"},
    {"override hydra/job_logging": "none"},
    {"override hydra/hydra_logging": "none"},
    "_self_",
]
HYDRA_NODE = {"output_subdir": None, "run": {"dir": "."}, "sweep": {"dir": "."}}


def conclude(study: Study, settings: SearchOptions, folder: Path) -> None:
    """Print what is best so far; with a single objective also write its configuration. Says nothing without trials."""
    found = best_trials(study)
    if not found:
        if settings.constraints and any(trial.values for trial in study.get_trials(deepcopy=False)):
            print(f"\nno trial keeps {' and '.join(map(str, settings.constraints))}")
        return
    show_importances(study, settings)
    if (plots := write_plots(study, settings, folder)) is not None:
        print(f"plots    {plots}/*.png")
    if len(settings.objectives) > 1:
        Console(highlight=False, soft_wrap=True).print(pareto_table(found, settings))
        return
    trial, metric = found[0], settings.objectives[0].metric
    print(f"\nbest     {trial.user_attrs['run_id']}: {metric} {trial.values[0]:.6g} (trial {trial.number})")
    if (path := write_best(trial, metric, folder)) is not None:
        print(f"config   {path}\nagain    peftbench --config-dir {folder} -cn {path.stem}")


def show_importances(study: Study, settings: SearchOptions) -> None:
    """Print, for each objective, each dimension's share in explaining it; nothing where that is unknown."""
    from optuna.importance import get_param_importances

    for index, objective in enumerate(settings.objectives):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of few trials all shares are alike, and the target is turned already
                found = get_param_importances(study, target=cost(settings, index))
        except (ValueError, RuntimeError):
            return  # too few trials, or all of them alike
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.items())
        print(f"\nimportance for {objective.metric}: {shares}")


def best_trials(study: Study) -> list[FrozenTrial]:
    """The best trial, or with several objectives those that no other one beats, each run once, in order of number."""
    from optuna.trial import TrialState

    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return []
    first: dict[str, FrozenTrial] = {}
    for trial in sorted(study.best_trials, key=lambda trial: trial.number):
        first.setdefault(trial.user_attrs["run_id"], trial)
    return list(first.values())


def write_best(trial: FrozenTrial, metric: str, folder: Path) -> Path | None:
    """Write ``best.yaml``: the complete configuration of the best run, as a primary config.

    It stands alone, so that later changes of a group's options do not change it, and it has a sweep folder of its own,
    so that running it (also with other seeds) adds nothing to the search. None if the record is gone.
    """
    record = read(folder / trial.user_attrs["run_id"])
    if record is None:
        return None
    config: dict[str, Any] = {"defaults": HYDRA_DEFAULTS, **record.config}
    config |= {"sweep": f"{record.sweep}-best", "hydra": HYDRA_NODE}
    head = f"# Best of the search {record.sweep}: {metric} {trial.values[0]:.6g}, run {record.run_id}\n"
    head += f"# peftbench --config-dir {folder} -cn {Path(BEST).stem}   (with seeds: -m seed=0,1,2)\n"
    write_atomically(folder / BEST, head + yaml.safe_dump(config, sort_keys=False))
    return folder / BEST


def pareto_table(trials: list[FrozenTrial], settings: SearchOptions) -> Table:
    """The Pareto set, one row a run: objectives, sampled parameters, run id."""
    names = [objective.metric for objective in settings.objectives]
    table = Table(title=f"Pareto set: no other trial is better in {' and '.join(names)}", title_justify="left")
    for name in ["trial", *names, *trials[0].params]:
        table.add_column(name, justify="right")
    table.add_column("run", no_wrap=True)
    for trial in trials:
        figures = [*trial.values, *trial.params.values()]
        shown = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in figures]
        table.add_row(str(trial.number), *shown, str(trial.user_attrs["run_id"]))
    return table
