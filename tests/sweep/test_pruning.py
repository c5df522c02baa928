"""Pruners, over runs in real processes whose curves never cross: which ones end early can be told beforehand."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from statistics import median

import optuna
import pytest
from searching import study_in
from support import noop_launcher

from peftbench import record as records
from peftbench.config import RunConfig
from peftbench.report.search import load
from peftbench.sweep import command, search
from peftbench.sweep.grid import Point
from peftbench.sweep.plan import Plan
from peftbench.sweep.search_options import SearchOptions
from peftbench.sweep.search_space import Number, Space
from peftbench.sweep.search_study import counted, pruner

VALIDATIONS = 9
TRIALS = 16


def by_median(seeds: list[int], brackets: list[int]) -> list[int]:
    """After five that were finished, what is below their median ends at its first validation."""
    ended, finished = [], []
    for seed in seeds:
        pruned = len(finished) >= 5 and seed < median(finished)
        ended.append(1 if pruned else VALIDATIONS)
        finished += [] if pruned else [seed]
    return ended


def by_halving(seeds: list[int], brackets: list[int], eta: int) -> list[int]:
    """At validation eta^(bracket + rung) the best 1/eta of those that came so far goes on, at least one of them."""
    reached, ended = defaultdict(list), []
    for seed, bracket in zip(seeds, brackets, strict=True):
        for rung in itertools.count():
            step = eta ** (bracket + rung)
            if step >= VALIDATIONS:
                ended.append(VALIDATIONS)
                break
            came = reached[bracket, rung]
            came.append(seed)
            if seed < sorted(came, reverse=True)[max(len(came) // eta, 1) - 1]:
                ended.append(step)
                break
    return ended


EXPECTED = {
    "median": by_median,
    "asha": lambda seeds, brackets: by_halving(seeds, brackets, 4),
    "hyperband": lambda seeds, brackets: by_halving(seeds, brackets, 3),
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_runs_that_lag_behind_are_pruned(noop_points, monkeypatch, name: str) -> None:
    """The seed is the accuracy here, and a little more with each validation."""
    monkeypatch.setattr(command, "show", lambda folder: None)
    (first,) = noop_points(f"curve:{VALIDATIONS}", jobs=1)
    trainer = first.run.trainer.model_copy(update={"validations": VALIDATIONS})
    options = SearchOptions.load(
        {
            "params": None,
            "n_trials": TRIALS,
            "sampler": "random",
            "seed": 0,
            "objectives": [{"metric": "validation/accuracy", "direction": "maximize"}],
            "storage": None,
            "pruner": name,
        }
    )

    def compose(overrides) -> Point:
        seed = int(overrides[0].removeprefix("seed="))
        return Point(first.run.model_copy(update={"seed": seed, "trainer": trainer}), tuple(overrides))

    space = Space((Number("seed", 0, 1000, 1, False, True),), ())
    search._search(options, space, compose, [compose(["seed=0"])], noop_launcher())

    folder = first.folder.parent
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    study = optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(backend))
    found = {record.axes["seed"]: record for record in records.read_sweep(folder)}
    trials = counted(study)
    seeds = [trial.params["seed"] for trial in trials]
    brackets = [_bracket(pruner(options, VALIDATIONS), study, trial) for trial in trials]
    expected = EXPECTED[name](seeds, brackets)
    assert [len(found[seed].history) for seed in seeds] == expected
    assert [found[seed].status for seed in seeds] == ["ok" if end == VALIDATIONS else "pruned" for end in expected]
    assert 0 < expected.count(VALIDATIONS) < TRIALS
    assert all(name in record.reason for record in found.values() if record.status == "pruned")
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}


def test_a_run_that_was_pruned_is_finished_by_a_grid_and_its_trial_stays(start, runner, quick, tmp_path) -> None:
    runner.status = lambda run: "pruned" if run.rank.value < 16 else "ok"
    arguments = {"n_trials": 6, "pruner": "median", "sampler": "random"}
    assert start("rank=range(4,25,4)", **arguments) == 0
    before, ran = [(trial.state, trial.user_attrs) for trial in study_in(tmp_path).trials], len(runner.calls)
    held = list(records.read_sweep(tmp_path / "s"))
    pruned = {record.run_id for record in held if record.status == "pruned"}
    assert 0 < len(pruned) < len(held)

    assert start("rank=range(4,25,4)", **arguments | {"n_trials": 14}) == 0
    assert not pruned & set(runner.calls[ran:]), "a search takes them as they are"

    runner.status, ran = lambda run: "ok", len(runner.calls)
    pruned = {record.run_id for record in records.read_sweep(tmp_path / "s") if record.status == "pruned"}
    points = [Point(RunConfig.load(record.config), ()) for record in records.read_sweep(tmp_path / "s")]
    assert [record.status for record in command.carry_out(points)] == ["ok"] * len(points)
    assert set(runner.calls[ran:]) == pruned
    assert not Plan.of(points).todo

    assert start("rank=range(4,25,4)", **arguments | {"n_trials": 16}) == 0
    trials = study_in(tmp_path).trials
    assert [(trial.state, trial.user_attrs) for trial in trials[:6]] == before
    assert {trial.state.name for trial in trials[14:]} == {"COMPLETE"}
    about = json.loads((tmp_path / "s" / "search.json").read_text())
    assert {trial["run_id"] for trial in about["trials"] if trial["status"] == "pruned"} == pruned
    assert about["best"]
    assert load(tmp_path / "s").lines[0].startswith("16 trials")


def _bracket(chosen: optuna.pruners.BasePruner, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> int:
    """Hyperband draws each trial's bracket from the study's name and the trial's number."""
    if not isinstance(chosen, optuna.pruners.HyperbandPruner):
        return 0
    chosen._try_initialization(study)
    return chosen._get_bracket_id(study, trial)
