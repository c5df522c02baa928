"""What a search has found: ``best.yaml`` or the Pareto set, and ``search.json``, which the page is drawn from."""

from __future__ import annotations

import json
import shlex
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from peftbench.record import read, write_atomically
from peftbench.report import SEARCH
from peftbench.report.figures import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna import Study
    from optuna.trial import FrozenTrial

    from peftbench.sweep.search_options import SearchOptions

BEST = "best.yaml"
ENOUGH = 30
"""Finished trials from which on importances are told: Optuna compares the best tenth with all. Of three parameters, one
of which alone decided, it put another one first in 31 of 60 searches with 4 trials, in 4 with 20, in none with 30."""
WIDEST = 1000
"""Columns of a terminal that no table needs."""
HYDRA_DEFAULTS = [
    {"override hydra/job_logging": "none"},
    {"override hydra/hydra_logging": "none"},
    "_self_",
]
HYDRA_NODE = {"output_subdir": None, "run": {"dir": "."}, "sweep": {"dir": "."}}


def write(study: Study, settings: SearchOptions, folder: Path) -> None:
    """Write ``best.yaml`` (with a single objective) and ``search.json``, which the page is drawn from."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("status")]
    if not trials:
        return
    finished = {trial.number for trial in _finished(study)}
    found = best_trials(study)
    single = settings.objectives[0].metric if len(settings.objectives) == 1 and found else None
    again = None if single is None else write_best(found[0], single, folder)
    if again is None:
        (folder / BEST).unlink(missing_ok=True)  # of a best that is none any more
    about = {
        "objectives": [objective.model_dump() for objective in settings.objectives],
        "constraints": [str(constraint) for constraint in settings.constraints],
        "importances": importances(study, settings),
        "best": [trial.number for trial in found],
        "again": None if again is None else command_of(folder),
        "trials": [
            {
                "number": trial.number,
                # Optuna gives a pruned trial its last report for a value: no selected checkpoint has it.
                "values": trial.values if trial.number in finished else None,
                "params": trial.params,
                "kept": all(excess <= 0 for excess in trial.constraints.values()),
                **{key: trial.user_attrs.get(key) for key in ("run_id", "status")},
            }
            for trial in trials
        ],
    }
    write_atomically(folder / SEARCH, json.dumps(about, indent=1) + "\n")


def command_of(folder: Path) -> str:
    """What runs the best configuration again."""
    return f"peftbench --config-dir {shlex.quote(str(folder))} -cn {Path(BEST).stem}"


def conclude(study: Study, settings: SearchOptions, folder: Path) -> None:
    """Print what is best so far. Says nothing without trials."""
    found = best_trials(study)
    if not found:
        if settings.constraints and _finished(study):
            print(f"\nno trial keeps {' and '.join(map(str, settings.constraints))}")
        return
    for metric, shares in importances(study, settings).items():
        print(f"\nimportance for {metric}: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}")
    if len(settings.objectives) > 1:
        table = pareto_table(found, settings)
        console = Console(highlight=False, emoji=False, markup=False)
        # As wide as it must be: cells that are cut short are of no use in a terminal or a file.
        wide = console.options.update(width=WIDEST)
        console.width = max(console.width, console.measure(table, options=wide).maximum)
        console.print(table)
        return
    trial, metric = found[0], settings.objectives[0].metric
    print(f"\nbest     {trial.user_attrs['run_id']}: {metric} {trial.values[0]:.6g} (trial {trial.number})")
    if (folder / BEST).exists():
        print(f"config   {folder / BEST}\nagain    {command_of(folder)}")
    else:
        print("config   none: the record of that run is gone")


def importances(study: Study, settings: SearchOptions) -> dict[str, dict[str, float]]:
    """For each objective, each dimension's share in explaining it; those are left out for which it is unknown.

    None of them is known before there are `ENOUGH` trials.
    """
    from optuna.importance import get_param_importances

    found: dict[str, dict[str, float]] = {}
    if len(_finished(study)) < ENOUGH:
        return found
    for index, objective in enumerate(settings.objectives):
        # Optuna warns of trials that are alike, of which it makes all shares alike, and of the target, turned already.
        with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            shares = get_param_importances(study, target=_cost(settings, index))
            if len(shares) == 1 or len(set(shares.values())) > 1:
                found[objective.metric] = shares
    return found


def _cost(settings: SearchOptions, index: int) -> Callable[[FrozenTrial], float]:
    """An objective of a trial, lower being better: Optuna asks which parameters bring a target down."""
    sign = -1.0 if settings.objectives[index].direction == "maximize" else 1.0
    return lambda trial: sign * float(trial.values[index])


def best_trials(study: Study) -> list[FrozenTrial]:
    """The best trial, or with several objectives those that no other one beats, each run once, in order of number.

    Of this search's: what somebody has added to the study meanwhile has no run.
    """
    if not _finished(study):
        return []
    first: dict[str, FrozenTrial] = {}
    for trial in sorted(study.best_trials, key=lambda trial: trial.number):
        if "run_id" in trial.user_attrs:
            first.setdefault(trial.user_attrs["run_id"], trial)
    return list(first.values())


def _finished(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


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
    head += f"# {command_of(folder)}   (with seeds: -m seed=0,1,2)\n"
    write_atomically(folder / BEST, head + yaml.safe_dump(config, sort_keys=False))
    return folder / BEST


def pareto_table(trials: list[FrozenTrial], settings: SearchOptions) -> Table:
    """The Pareto set, one row a run: objectives, sampled parameters, run id."""
    names = [objective.metric for objective in settings.objectives]
    table = Table(title=f"Pareto set: no other trial is better in {' and '.join(names)}", title_justify="left")
    for name in ["trial", *names, *trials[0].params, "run"]:
        table.add_column(name, justify="right", no_wrap=True)
    for trial in trials:
        values = zip(names, trial.values, strict=True)
        measured = [f"{number(value / 1e6)} MB" if name.endswith("_bytes") else value for name, value in values]
        figures = [*measured, *trial.params.values()]
        shown = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in figures]
        table.add_row(str(trial.number), *shown, str(trial.user_attrs["run_id"]))
    return table
