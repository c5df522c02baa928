"""An Optuna search: trials are points, carried out by the engine one process each; the records are what it reads."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from peftbench.cli.messages import explain
from peftbench.errors import UserError
from peftbench.record import FINE, Record, read
from peftbench.sweep import command, engine, search_result
from peftbench.sweep.child import Judge
from peftbench.sweep.compose import Composer
from peftbench.sweep.grid import Point, load, parse
from peftbench.sweep.outcome import writing
from peftbench.sweep.plan import Plan
from peftbench.sweep.search_ahead import preview, standing
from peftbench.sweep.search_options import SearchOptions
from peftbench.sweep.search_space import Space
from peftbench.sweep.search_storage import refuse_added
from peftbench.sweep.search_study import ask, counted, opened, pruner, sampler
from peftbench.sweep.slurm.options import Cluster
from peftbench.sweep.sources import changed
from peftbench.sweep.where import Where

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import DictConfig
    from optuna import Study
    from optuna.trial import Trial

Compose = Callable[[Sequence[str]], Point]


def carry_out(
    loader: ConfigLoaderImpl,
    master: DictConfig,
    options: Mapping[str, Any],
    arguments: Sequence[str],
    launcher: engine.Place = None,
) -> None:
    """Search up to ``n_trials`` finished trials in all, write the best configuration and the report.

    Exits with 1 if any run failed, with 2 if no trial could run, and returns otherwise.

    Args:
        launcher: how runs are started, or where.

    Raises:
        UserError: options, dimensions or objectives are wrong, or the study there is of another search.
    """
    settings = SearchOptions.load(options)
    space = Space.of(parse(loader, settings.params, arguments))
    settings.check(space)

    composer = Composer(loader, master)

    def compose(overrides: Sequence[str]) -> Point:
        return _compose(composer, master.hydra, overrides)

    points = [compose(overrides) for overrides in space.probes()]
    first = points[0]
    if first.run.engine.rerun:
        raise UserError("engine.rerun: a search does not repeat its trials; write sweep=NAME for a new one")
    if isinstance(launcher, Cluster):
        launcher = replace(launcher, search=True)
        launcher.options.check([point.run for point in points])
    if settings.where is not None:
        Where(settings.where).keep([point.run for point in points])
    lines = [f"search {first.run.sweep}: {settings.sampler}, {settings.n_trials} trials -> {first.folder.parent}"]
    lines += [f"  {dimension}" for dimension in space.dimensions]
    lines += [f"  {objective.direction} {objective.metric}" for objective in settings.objectives]
    lines += [f"  with {constraint}" for constraint in settings.constraints]
    lines += [] if settings.pruner == "none" else [f"  pruned by {settings.pruner}"]
    print("\n".join(lines), flush=True)
    if first.run.engine.dry_run:
        print(preview(settings, first, settings.identity(space, [point.run.hash for point in points])))
    else:
        if isinstance(launcher, Cluster):
            launcher.check_here()
        _search(settings, space, compose, points, launcher)


def _search(
    settings: SearchOptions,
    space: Space,
    compose: Compose,
    points: Sequence[Point],
    launcher: engine.Place = None,
) -> None:
    run, folder = points[0].run, points[0].folder.parent
    identity = settings.identity(space, [point.run.hash for point in points])
    with writing(folder), opened(settings, folder, run.sweep, identity) as study:
        done = counted(study)
        todo = max(0, settings.n_trials - len(done))
        print(standing(done, todo), flush=True)
        held = (read(folder / str(trial.user_attrs.get("run_id"))) for trial in done)
        for line in changed(filter(None, held), "write sweep=NAME for a new search"):
            print(line, flush=True)
        study.pruner = pruner(settings, run.trainer.validations)
        try:
            with engine.runner(points, todo, launcher=launcher) as runner:
                Search(study, settings, space, compose, runner).run()
        finally:
            search_result.write(study, settings, folder)
            command.show(folder)
            search_result.conclude(study, settings, folder)
        if code := command.exit_code(str(trial.user_attrs.get("status")) for trial in counted(study)):
            sys.exit(code)


def _compose(composer: Composer, hydra: DictConfig, overrides: Sequence[str]) -> Point:
    try:
        run = load(composer(overrides))
    except (UserError, HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{explain(error)}\n  at the point {shlex.join(overrides)}") from error
    # Where the sweep file asks for a search, one of its points is a single run.
    return Point.of(run, hydra, ("hydra.mode=RUN", *overrides))


@dataclass
class Search:
    """The loop: ask for parameters, find or make the record, tell the objectives."""

    study: Study
    settings: SearchOptions
    space: Space
    compose: Compose
    runner: engine.Runner
    _points: dict[str, tuple[Point, list[Trial]]] = field(default_factory=dict)
    """Points at work, and the trials that wait for each."""
    _records: dict[str, Record] = field(default_factory=dict)
    """What this call has carried out: a point that failed is not tried twice in one search."""

    def run(self) -> None:
        """Go on until ``n_trials`` trials are finished; a free slot is given the next trial at once.

        Raises:
            UserError: a run failed and ``engine.fail_fast`` is set, a run has no such objective, or somebody has added
                a trial to the study meanwhile.
        """
        while self._wanted or self._points:
            while self._wanted and self.runner.free:
                self._ask()
            for record in self.runner.wait() if self._points else ():
                self._ended(record)
        refuse_added(self.study)

    @property
    def _index(self) -> int:
        """How many trials are finished or at work."""
        return len(counted(self.study)) + sum(len(trials) for _, trials in self._points.values())

    @property
    def _wanted(self) -> bool:
        return self._index < self.settings.n_trials

    def _ask(self) -> None:
        """Begin a trial. An impossible point costs no process, and one that is known or at work no second one."""
        self.study.sampler = sampler(self.settings, self._index)
        trial, misfit = ask(self.study, self.space)
        if misfit is not None:
            self._refuse(trial, f"was queued with {misfit}")
            return
        try:
            point = self.compose(self.space.overrides(trial.params))
        except UserError as error:
            # The probes were legal, so only this combination is not.
            self._refuse(trial, f"is no legal configuration: {error}")
            return
        run_id = point.run.run_id
        if self.settings.where is not None and not Where(self.settings.where).meets(point.run):
            self.runner.progress.without_run(f"trial {trial.number} is left out by hydra.sweeper.where: {run_id}")
            self._tell(trial, None, "skipped", f"hydra.sweeper.where: {self.settings.where}")
        elif run_id in self._points:
            self._points[run_id][1].append(trial)
        elif (record := self._known(point)) is not None:
            self._take(trial, point, record)
        else:
            self._points[run_id] = (point, [trial])
            judge = None if self.settings.pruner == "none" else self._judge(trial, point.run.trainer.validations)
            self.runner.submit(point, judge)

    def _refuse(self, trial: Trial, why: str) -> None:
        self.runner.progress.without_run(f"trial {trial.number} {why}", failed=True)
        self._tell(trial, None, "failed", why)

    def _judge(self, trial: Trial, validations: int) -> Judge:
        """What decides after each of a trial's validations whether it goes on; after the last one it is trained."""

        def judge(index: int, figures: dict[str, float]) -> str | None:
            (objective,) = self.settings.objectives
            if objective.metric not in figures:
                there = ", ".join(sorted(figures))
                raise UserError(f"objective {objective.metric}: a validation has no such figure; it has {there}")
            trial.report(figures[objective.metric], index)
            pruned = f"{self.settings.pruner}: {objective.metric} {figures[objective.metric]:.6g} at validation {index}"
            return pruned if index < validations and trial.should_prune() else None

        return judge

    def _known(self, point: Point) -> Record | None:
        """The point's record without a run: of this call, from disk, or because it can never run."""
        run_id = point.run.run_id
        if run_id not in self._records:
            plan = Plan.of([point], pruning=self.settings.pruner != "none")
            if plan.todo:
                return None
            (self._records[run_id],) = engine.carry_out_plan(plan)
        return self._records[run_id]

    def _ended(self, record: Record) -> None:
        point, trials = self._points.pop(record.run_id)
        self._records[record.run_id] = record
        for trial in trials:
            self._take(trial, point, record, is_said=trial is trials[0])  # by the runner, once for all of them

    def _take(self, trial: Trial, point: Point, record: Record, *, is_said: bool = False) -> None:
        if not is_said:
            self.runner.progress.done(record)
        self._tell(trial, record, record.status, record.reason)
        engine.stop_at(record, point)

    def _tell(self, trial: Trial, record: Record | None, status: str, reason: str | None) -> None:
        """Finish the trial. What was skipped counts as pruned, so that the sampler learns to avoid it."""
        from optuna.trial import TrialState

        # Read first: without its figures the trial stays unfinished and is taken up again once that is corrected.
        measured = record if status == "ok" else None
        values = [objective.value(measured) for objective in self.settings.objectives] if measured else None
        excess = {str(bound): bound.excess(measured) for bound in self.settings.constraints} if measured else {}
        about = {"run_id": record.run_id if record else None, "status": status, "reason": reason}
        for key, value in about.items():
            trial.set_user_attr(key, value)
        for name, beyond in excess.items():
            trial.set_constraint(name, beyond)
        if values is not None and not any(map(isnan, values)):
            self.study.tell(trial, values)
        elif values is not None:
            self.runner.progress.say(f"trial {trial.number} has an objective that is no number: it counts as failed")
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, state=TrialState.PRUNED if status in FINE else TrialState.FAIL)
