"""The options of a search (``conf/hydra/sweeper/optuna.yaml``), checked, and what its objectives are read from."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from peftbench.component import Checked
from peftbench.errors import UserError
from peftbench.glossary import EVALUATION, VALIDATION, misspelt, validated
from peftbench.record import IN_PROCESS, Record
from peftbench.sweep.search_space import Choice, Space
from peftbench.sweep.sweeper_options import SweeperOptions

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_CONSTRAINT = re.compile(rf"^\s*([A-Za-z]\w*/\w+)\s*(<=|>=)\s*([-+.\deE]*\d\.?)\s*({'|'.join(UNITS)})?\s*$")


class Objective(Checked):
    """One figure of a run, and which way is better."""

    metric: str
    direction: Literal["maximize", "minimize"]

    @field_validator("metric")
    @classmethod
    def _never_the_evaluation_split(cls, metric: str) -> str:
        if metric.startswith(EVALUATION):
            raise ValueError(
                f"{metric} is measured on the evaluation split, which is touched once and by which nothing may be "
                f"selected: write {validated(metric)}"
            )
        return _spelt(metric)

    def value(self, record: Record) -> float:
        """This figure of a finished run; ``validation/...`` is that of the checkpoint that was selected.

        Raises:
            UserError: the run has no such figure.
        """
        return figure(record, self.metric, "objective")


class Constraint(Checked):
    """A bound on a figure: ``memory/train_peak_bytes <= 2 GiB``."""

    metric: str
    at_most: bool
    """Otherwise it is at least the bound."""
    bound: float

    @classmethod
    def read(cls, text: str) -> Constraint:
        """The constraint that is written like this."""
        if (found := _CONSTRAINT.match(text)) is None:
            raise ValueError(
                f"{text!r} is no bound: write 'memory/train_peak_bytes <= 2 GiB' or 'validation/accuracy >= 0.8'"
            )
        metric, relation, number, unit = found.groups()
        _spelt(metric)
        if metric.startswith(EVALUATION):
            raise ValueError(f"{metric} is measured on the evaluation split, by which nothing may be selected")
        if unit and not metric.endswith("_bytes"):
            raise ValueError(f"{text!r}: only figures in bytes take a unit")
        return cls(metric=metric, at_most=relation == "<=", bound=float(number) * UNITS[unit or "B"])

    def excess(self, record: Record) -> float:
        """How far a finished run is beyond the bound, in the unit of the figure; at most 0 where it is kept.

        Raises:
            UserError: the run has no such figure.
        """
        value = figure(record, self.metric, "constraint")
        if not math.isfinite(value):
            # A record on disk does not tell whether it was infinite or NaN. Optuna takes no NaN, and its GP makes the
            # largest excess it has seen of an infinite one, which may be none.
            return max(1.0, abs(self.bound))
        return value - self.bound if self.at_most else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.bound:g}"


def _spelt(metric: str) -> str:
    """The name of a figure, unless it is that of another one misspelt: only a whole run would show it otherwise.

    Raises:
        ValueError: it is, or it can be no figure's name.
    """
    if (meant := misspelt(metric)) is not None:
        raise ValueError(f"there is no figure {metric}: did you mean {meant}?")
    if "/" not in metric:
        raise ValueError(f"{metric} is no figure's name, which is like validation/accuracy or memory/train_peak_bytes")
    return metric


def figure(record: Record, metric: str, what: str) -> float:
    """A figure of a finished run by which a search selects.

    Raises:
        UserError: the run has none of this name.
    """
    figures = figures_of(record)
    if metric not in figures:
        instead = f"it has {', '.join(sorted(figures))}"
        if metric.startswith("memory/") and record.environment.get(IN_PROCESS):
            instead = "write engine.in_process=false"
        raise UserError(f"{what} {metric}: {record.run_id} has no such figure; {instead}")
    return figures[metric]


def figures_of(record: Record) -> dict[str, float]:
    """Every figure of a run that a search may select by."""
    step = record.selection.get("step")
    selected = next((report for report in reversed(record.history) if report.get("step") == step), {})
    # A report that is null was infinite or no number, for which Optuna has a failed trial.
    validated = {n: math.nan if value is None else value for n, value in selected.items() if n.startswith(VALIDATION)}
    measured = {name: value for name, value in record.metrics.items() if not name.startswith(EVALUATION)}
    return {name: float(v) for name, v in {**measured, **validated}.items() if isinstance(v, int | float)}


class SearchOptions(SweeperOptions):
    """How to search; what to vary is in ``params`` and on the command line."""

    params: dict[str, Any] | None
    n_trials: int = Field(ge=1)
    sampler: Literal["tpe", "random", "nsga2", "nsga3", "cmaes", "gp", "qmc"]
    pruner: Literal["none", "median", "hyperband", "asha"] = "none"
    seed: int = Field(ge=0, lt=2**31)
    objectives: list[Objective] = Field(min_length=1)
    constraints: list[Constraint] = Field(default_factory=list)
    storage: str | None = Field(min_length=1)

    @field_validator("constraints", mode="before")
    @classmethod
    def _read_constraints(cls, value: Any) -> Any:
        items = [] if value is None else value if isinstance(value, list | tuple) else [value]
        return [item if isinstance(item, Constraint) else Constraint.read(str(item)) for item in items]

    @model_validator(mode="after")
    def _each_objective_once(self) -> SearchOptions:
        metrics = [objective.metric for objective in self.objectives]
        if len(set(metrics)) < len(metrics):
            raise ValueError("objectives: each metric may be given once")
        return self

    def identity(self, space: Space, hashes: Sequence[str]) -> dict[str, Any]:
        """What makes two searches the same one: trials of another one must not be compared with ours.

        Sampler, its seed and the number of trials may change from one call to the next.

        Args:
            hashes: of the configurations of the points that are composed before the first trial.
        """
        bounds = [str(constraint) for constraint in self.constraints]
        return {
            **({"constraints": bounds} if bounds else {}),
            # Trials that another condition left out would not be tried again, and one that this leaves out be the best.
            **({} if self.where is None else {"where": self.where}),
            "dimensions": space.describe(),
            "objectives": [objective.model_dump() for objective in self.objectives],
            "configuration": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        }

    def check(self, space: Space) -> None:
        """Refuse what the sampler would silently replace by random sampling.

        Raises:
            UserError: sampler, dimensions and objectives do not go together.
        """
        choices = [d.key for d in space.dimensions if isinstance(d, Choice)]
        if self.sampler in ("cmaes", "qmc") and choices:
            raise UserError(
                f"sampler={self.sampler} takes numbers only, and {choices[0]} is a choice: write sampler=tpe"
            )
        if self.sampler == "cmaes" and len(space.dimensions) < 2:
            raise UserError("sampler=cmaes needs two dimensions or more: write sampler=tpe")
        if self.sampler == "cmaes" and len(self.objectives) > 1:
            raise UserError("sampler=cmaes takes one objective: write sampler=tpe or sampler=nsga2")
        if self.pruner == "none":
            return
        if len(self.objectives) > 1:
            raise UserError(f"pruner={self.pruner} takes one objective: write pruner=none, or leave objectives out")
        if not self.objectives[0].metric.startswith(VALIDATION):
            raise UserError(
                f"pruner={self.pruner}: {self.objectives[0].metric} is known only at the end of a run; "
                "write pruner=none, or an objective that is reported meanwhile, such as validation/accuracy"
            )
