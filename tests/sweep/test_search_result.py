"""What a search ends with: its best trials, a configuration of the best, and its part of the page."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hydra import compose, initialize_config_dir
from optuna.importance import get_param_importances
from searching import ACCURACY, MEMORY, SPACE, study_in
from support import CONF

from peftbench import report
from peftbench.record import read_sweep
from peftbench.report.search import load as load_part
from peftbench.sweep.grid import load
from peftbench.sweep.search_options import SearchOptions
from peftbench.sweep.search_result import ENOUGH, best_trials, conclude, importances, write


def test_a_search_ends_with_a_config_that_is_its_best_run(start, runner, tmp_path) -> None:
    assert start(*SPACE, "trainer.max_steps=7", n_trials=5) == 0
    records = list(read_sweep(tmp_path / "s"))
    best = max(records, key=lambda record: record.selection["value"])
    assert len(records) == 5
    assert best.config["trainer"]["max_steps"] == 7
    with initialize_config_dir(str(tmp_path / "s"), version_base="1.3"):
        found = load(compose("best", [f"hydra.searchpath=[file://{CONF}]"]))
    assert found.hash == best.config_hash
    assert found.sweep == "s-best"


def test_the_entry_point_runs_the_best_config_as_it_is(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=2)
    command_line = ["--config-dir", str(tmp_path / "s"), "-cn", "best", "engine.dry_run=true"]
    done = subprocess.run(
        [sys.executable, "-m", "peftbench", *command_line], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (best,) = best_trials(study_in(tmp_path))
    assert best.user_attrs["run_id"] in done.stdout


def test_the_pareto_set_is_what_no_other_run_beats(start, runner, quick, tmp_path, capsys) -> None:
    assert start(*SPACE, objectives=[ACCURACY, MEMORY], n_trials=20) == 0
    runs = {r.run_id: (r.selection["value"], -r.metrics["memory/train_peak_bytes"]) for r in read_sweep(tmp_path / "s")}
    beaten = {
        one
        for one, other in itertools.permutations(runs, 2)
        if all(a <= b for a, b in zip(runs[one], runs[other], strict=True)) and runs[one] != runs[other]
    }
    found = [trial.user_attrs["run_id"] for trial in best_trials(study_in(tmp_path))]
    assert sorted(found) == sorted(set(runs) - beaten)
    assert 1 < len(found) < len(runs)
    assert not (tmp_path / "s" / "best.yaml").exists()
    shown = capsys.readouterr().out
    assert all(run_id in shown for run_id in found)
    assert "…" not in shown.partition("Pareto set")[2]


def test_the_last_report_of_a_pruned_trial_is_no_figure_of_the_search(tmp_path) -> None:
    """Optuna calls it the trial's value; no run was selected at it, and no constraint was asked of it."""
    study = optuna.create_study(direction="maximize")
    for number, (status, value) in enumerate([("ok", 0.6), ("ok", 0.5), ("pruned", 0.9)]):
        trial = study.ask()
        trial.set_user_attr("run_id", f"run-{number}")
        trial.set_user_attr("status", status)
        if status == "pruned":
            trial.report(value, step=1)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, value)
    options = {"params": None, "n_trials": 3, "sampler": "tpe", "seed": 0, "storage": None, "objectives": [ACCURACY]}
    write(study, SearchOptions.load(options), tmp_path)
    about = json.loads((tmp_path / report.SEARCH).read_text())
    assert [trial["values"] for trial in about["trials"]] == [[0.6], [0.5], None]


def test_what_was_sampled_is_shown_as_it_is_written(capsys) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    written = ("[output]", "[query,value]", "[/bold]", ":smile:")
    kinds = {"method.layers": optuna.distributions.CategoricalDistribution(written)}
    for number, value in enumerate(written):
        about = {"run_id": f"run-{number}", "status": "ok"}
        params = {"method.layers": value}
        study.add_trial(
            optuna.create_trial(params=params, distributions=kinds, values=[number, number], user_attrs=about)
        )
    options = {"params": None, "n_trials": 4, "sampler": "tpe", "seed": 0, "storage": None}
    conclude(study, SearchOptions.load({**options, "objectives": [ACCURACY, MEMORY]}), Path())
    shown = capsys.readouterr().out
    assert all(value in shown for value in written)


def test_a_best_run_whose_record_is_gone_is_said(start, runner, quick, tmp_path, capsys) -> None:
    start(*SPACE, n_trials=4)
    (best,) = best_trials(study_in(tmp_path))
    assert (tmp_path / "s" / "best.yaml").exists()
    shutil.rmtree(tmp_path / "s" / best.user_attrs["run_id"])
    start(*SPACE, n_trials=4)
    assert "the record of that run is gone" in capsys.readouterr().out
    assert not (tmp_path / "s" / "best.yaml").exists()


@pytest.mark.parametrize(
    ("objectives", "drawn"),
    [
        ([ACCURACY], ["validation/accuracy by trial"]),
        ([ACCURACY, MEMORY], ["validation/accuracy by trial", "validation/accuracy against memory/train_peak_bytes"]),
    ],
)
def test_the_page_says_what_was_found(start, runner, quick, tmp_path, objectives: list, drawn: list[str]) -> None:
    options = {"objectives": objectives, "constraints": ["memory/train_peak_bytes <= 50 kB"]}
    assert start(*SPACE, n_trials=ENOUGH, sampler="random", **options) == 0
    text = report.write(tmp_path / "s").read_text()
    part = text.partition('<section id="search">')[2].partition("</section>")[0]
    best = best_trials(study_in(tmp_path))
    assert all(trial.user_attrs["run_id"] in part for trial in best)
    assert "Importance for validation/accuracy: " in part
    assert all(f"<figcaption>{title}</figcaption>" in part for title in drawn)
    # Each trial is a mark in each of its drawings.
    assert part.count("<title>trial ") == ENOUGH * part.count("<svg")
    command = f"peftbench --config-dir {tmp_path / 's'} -cn best"
    assert (command in part) == (len(objectives) == 1)
    assert "http" not in part, "it needs nothing but itself"


def test_of_several_that_are_equally_good_one_is_named(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=4, sampler="random")
    path = tmp_path / "s" / "search.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "best": [0, 2, 3]}))
    found = load_part(tmp_path / "s")
    assert found is not None
    (line,) = [line for line in found.lines if line.startswith("Best: ")]
    assert line.startswith("Best: trial 0 and 2 more with the same figure, ")


def test_a_damaged_search_file_costs_its_part_of_the_page_only(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=2)
    (tmp_path / "s" / "search.json").write_text('{"trials": [')
    assert 'id="search"' not in report.write(tmp_path / "s").read_text()


def importances_of(values: list[float]) -> dict[str, dict[str, float]]:
    """Of a search over two parameters, whose trials have these values."""
    study = optuna.create_study(direction="maximize")
    kinds = {"lr": optuna.distributions.FloatDistribution(0, 1), "rank": optuna.distributions.IntDistribution(1, 9)}
    for index, value in enumerate(values):
        params = {"lr": index / len(values), "rank": 4 + index % 2}
        study.add_trial(optuna.create_trial(params=params, distributions=kinds, value=value))
    options = {"params": None, "n_trials": 3, "sampler": "tpe", "seed": 0, "storage": None, "objectives": [ACCURACY]}
    return importances(study, SearchOptions.load(options))


@pytest.mark.parametrize(("values", "told"), [([0.5] * ENOUGH, False), ([0.5 + 0.01 * i for i in range(ENOUGH)], True)])
def test_importance_that_is_unknown_is_not_told(values: list[float], told: bool) -> None:
    """Where no trial is better than another, Optuna gives every parameter the same share."""
    assert bool(importances_of(values)) == told


def test_importance_is_not_told_of_a_few_trials() -> None:
    """What has no effect may come first: the best of four trials has some learning rate, too."""
    assert not importances_of([0.5, 0.6, 0.7, 0.9])
    assert not importances_of([0.5 + 0.01 * i for i in range(ENOUGH - 1)])


def test_importance_is_for_the_better_end_of_an_objective(start, runner, quick, tmp_path, capsys) -> None:
    """Of a single objective Optuna knows itself which way is better."""
    assert start(*SPACE, n_trials=30, sampler="random") == 0
    study = study_in(tmp_path)
    expected = get_param_importances(study)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in expected.items())
    assert f"importance for validation/accuracy: {shares}" in capsys.readouterr().out
    assert expected != get_param_importances(study, target=lambda trial: trial.values[0]), "the wrong end differs"
