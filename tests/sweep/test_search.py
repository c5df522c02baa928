"""Searches from start to end, with a runner that computes its figures instead of training."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.types import RunMode
from searching import ACCURACY, MEMORY, SPACE, lose_of_hira, params_of, study_in
from support import CONF, SWEEPS

from peftbench.errors import UserError
from peftbench.record import read, read_sweep
from peftbench.sweep.grid import load
from peftbench.sweep.search_options import SearchOptions
from peftbench.sweep.search_study import counted


def test_an_objective_that_no_run_has_stops_the_search_and_can_be_corrected(start, runner, quick, tmp_path) -> None:
    with pytest.raises(UserError, match=r"validation/bleu.*it has .*validation/accuracy"):
        start(*SPACE, objectives=[{"metric": "validation/bleu", "direction": "maximize"}])
    assert len(runner.calls) == 1
    assert start(*SPACE) == 0
    assert len(counted(study_in(tmp_path))) == 6
    assert len(runner.calls) == 6, "the run that was there is used"


def test_a_search_says_that_its_data_are_others_now(start, runner, quick, tmp_path, capsys) -> None:
    data = tmp_path / "mine.csv"
    data.write_text("text,label\na,0\nb,1\n")
    start(*SPACE, "dataset=text", f"dataset.path={data}", n_trials=2)
    assert "was changed" not in capsys.readouterr().out
    data.write_text("text,label\na,1\nb,0\n")
    start(*SPACE, "dataset=text", f"dataset.path={data}", n_trials=3)
    assert "mine.csv was changed since 2 of those that are done read it" in capsys.readouterr().out
    assert len(runner.calls) == 3


def test_a_search_goes_on_to_its_total(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=3)
    start(*SPACE, n_trials=5)
    start(*SPACE, n_trials=5)
    assert len(runner.calls) == 5
    in_pieces = params_of(study_in(tmp_path))
    (tmp_path / "s").rename(tmp_path / "before")
    start(*SPACE, n_trials=5)
    assert params_of(study_in(tmp_path)) == in_pieces


def test_a_search_killed_three_times_reaches_its_total_with_the_same_points(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=7)
    straight = params_of(study_in(tmp_path))
    (tmp_path / "s").rename(tmp_path / "straight")
    for calls in (1, 3, 2):
        runner.calls, runner.kill_at = [], calls
        process = multiprocessing.get_context("fork").Process(target=start, args=SPACE, kwargs={"n_trials": 7})
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with (tmp_path / "s" / "study.journal").open("a") as journal:
            journal.write('{"op_code":')
        os.symlink("study.journal", tmp_path / "s" / "study.journal.lock")
    runner.kill_at = None
    assert start(*SPACE, n_trials=7) == 0
    study = study_in(tmp_path)
    assert params_of(study) == straight
    assert not [t for t in study.trials if not t.state.is_finished()]
    assert len(study.trials) == 7 + 3
    assert len(list(read_sweep(tmp_path / "s"))) == 7


def test_an_interrupted_trial_is_taken_up_again(start, runner, quick, tmp_path) -> None:
    runner.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        start(*SPACE)
    assert (tmp_path / "s" / "best.yaml").exists()
    runner.interrupt_at = None
    start(*SPACE)
    assert runner.calls.count(runner.calls[1]) == 2
    assert len(counted(study_in(tmp_path))) == 6


def test_a_point_sampled_twice_runs_once(start, runner, quick, tmp_path) -> None:
    start("method=lora,hira", "rank=4,8", n_trials=12)
    assert len(counted(study_in(tmp_path))) == 12
    assert sorted(runner.calls) == sorted(set(runner.calls))
    assert len(runner.calls) <= 4


def test_trials_side_by_side_reach_the_same_total(start, runner, quick, tmp_path) -> None:
    runner.slots = 3
    assert start(*SPACE, n_trials=10) == 0
    assert runner.most == 3, "a free slot is given the next trial at once"
    assert len(counted(study_in(tmp_path))) == 10
    assert len(set(runner.calls)) == len(list(read_sweep(tmp_path / "s"))) == 10


def test_a_point_at_work_is_not_started_twice(start, runner, quick, tmp_path) -> None:
    runner.slots = 8
    assert start("method=lora,hira", n_trials=6, sampler="random") == 0
    assert sorted(runner.calls) == sorted(set(runner.calls))
    trials = counted(study_in(tmp_path))
    assert len(trials) == 6
    assert all(trial.values for trial in trials)


@pytest.mark.parametrize("where", [None, "method == 'hira'"])
@pytest.mark.parametrize("slots", [1, 8])
def test_every_trial_is_counted_once(start, runner, quick, tmp_path, capsys, slots: int, where: str | None) -> None:
    """Also one whose point is at work for another, is known, or is left out."""
    runner.slots = slots
    assert start("method=lora,hira", n_trials=6, sampler="random", where=where) == 0
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert said == [f"[{index}/6]" for index in range(1, 7)]
    assert len(runner.calls) < 6


def test_a_failed_run_is_a_failed_trial_and_the_search_goes_on(start, runner, quick, tmp_path) -> None:
    runner.status = lambda run: "oom" if run.method.name == "hira" else "ok"
    assert start("method=lora,hira", "rank=range(4,65,4)", n_trials=8) == 1
    states = {trial.user_attrs["status"]: trial.state.name for trial in counted(study_in(tmp_path))}
    assert states == {"ok": "COMPLETE", "oom": "FAIL"}
    assert sorted(runner.calls) == sorted(set(runner.calls)), "a failed point is not tried twice in one search"


def test_a_figure_that_is_no_number_is_a_failed_trial(start, runner, quick, tmp_path, monkeypatch, capsys) -> None:
    lose_of_hira(runner, monkeypatch, "validation/accuracy")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Optuna's, with a path, on the terminal
        start("method=lora,hira", "rank=range(4,65,4)", n_trials=8)
    states = {trial.params["method"]: trial.state.name for trial in counted(study_in(tmp_path))}
    assert states == {"lora": "COMPLETE", "hira": "FAIL"}
    assert "has an objective that is no number: it counts as failed" in capsys.readouterr().out


def test_fail_fast_stops_at_the_first_failure(start, runner, quick, tmp_path) -> None:
    runner.status = lambda run: "failed"
    with pytest.raises(UserError, match="fail_fast"):
        start(*SPACE, "engine.fail_fast=true")
    assert [t.state.name for t in study_in(tmp_path).trials] == ["FAIL"]


def test_an_impossible_combination_costs_no_process(start, runner, quick, tmp_path) -> None:
    assert start("method=sparse_lora,lora", "sparsity=magnitude", "rank=range(4,65,4)", n_trials=8) == 0
    trials = counted(study_in(tmp_path))
    skipped = [t for t in trials if t.user_attrs["status"] == "skipped"]
    assert {t.state.name for t in skipped} == {"PRUNED"}
    assert len(runner.calls) == len({t.user_attrs["run_id"] for t in trials if t not in skipped})
    assert all(read(tmp_path / "s" / t.user_attrs["run_id"]).reason for t in skipped)


def test_an_illegal_combination_is_a_failed_trial(start, runner, tmp_path, capsys) -> None:
    arguments = ("sparsity=magnitude", "sparsity.schedule=gradual,oneshot", "sparsity.interval=null,5")
    assert start("method=sparse_lora", *arguments, n_trials=8, sampler="random") == 1
    trials = counted(study_in(tmp_path))
    illegal = [t for t in trials if tuple(t.params.values()) == ("oneshot", "5")]
    assert illegal
    assert [t.number for t in trials if t.state.name == "FAIL"] == [t.number for t in illegal]
    assert "is no legal configuration" in capsys.readouterr().out


def test_trials_of_another_search_are_not_mixed_in(start, runner, quick) -> None:
    start(*SPACE, n_trials=2)
    with pytest.raises(UserError, match=r"dimensions and configuration.*write sweep=NAME"):
        start("method=lora,hira", n_trials=4)
    for more in ((), ("engine.dry_run=true",)):
        with pytest.raises(UserError, match=r"2 trials of a search with another configuration:"):
            start(*SPACE, "trainer.epochs=2", *more, n_trials=4)
    with pytest.raises(UserError, match="objectives"):
        start(*SPACE, objectives=[ACCURACY, MEMORY], n_trials=4)
    for more in ((), ("engine.dry_run=true",)):
        with pytest.raises(UserError, match=r"2 trials of a search with another where: write sweep=NAME"):
            start(*SPACE, *more, n_trials=4, where="rank < 8")
    assert start(*SPACE, n_trials=3, sampler="random", seed=5) == 0


def test_two_searches_in_one_folder_are_refused(start, runner, quick, tmp_path) -> None:
    def second(run) -> str:
        with pytest.raises(UserError, match="another search is at work"):
            start(*SPACE)
        return "ok"

    runner.status = second
    start(*SPACE, n_trials=1)


def test_a_file_in_the_folder_s_place_is_said(start, runner, quick, tmp_path) -> None:
    (tmp_path / "s").write_text("in the way")
    with pytest.raises(UserError, match="is no folder"):
        start(*SPACE)
    assert not runner.calls


def test_a_dry_run_leaves_nothing(start, runner, quick, tmp_path, capsys) -> None:
    assert start(*SPACE, "engine.dry_run=true") == 0
    assert not (tmp_path / "s").exists()
    said = capsys.readouterr().out
    assert "trainer.lr: log float from 1e-05 to 0.01" in said
    assert "0 trials done already, 6 to run" in said


def test_a_dry_run_says_how_far_a_search_has_come(start, runner, quick, tmp_path, capsys) -> None:
    runner.status = lambda run: "oom" if run.method.name == "hira" else "ok"
    start(*SPACE, n_trials=4, sampler="random")
    failed = sum(trial.user_attrs["status"] == "oom" for trial in counted(study_in(tmp_path)))
    journal = (tmp_path / "s" / "study.journal").read_bytes()
    capsys.readouterr()
    start(*SPACE, "engine.dry_run=true", n_trials=6, sampler="random")
    said = capsys.readouterr().out
    assert 0 < failed < 4
    assert f"4 trials done already ({failed} of them failed, and a search tries none again: raise n_trials)" in said
    assert "2 to run\nabout " in said
    assert (tmp_path / "s" / "study.journal").read_bytes() == journal


def test_rerun_is_refused(start, runner, quick) -> None:
    with pytest.raises(UserError, match=r"engine\.rerun"):
        start(*SPACE, "engine.rerun=true")


def test_points_that_the_condition_leaves_out_are_not_run(start, runner, quick, tmp_path, capsys) -> None:
    assert start("method=lora,hira", "rank=range(4,65,4)", n_trials=12, where="method == 'hira' and rank < 32") == 0
    assert all(r.axes["method"] == "hira" and r.axes["rank"] < 32 for r in read_sweep(tmp_path / "s"))
    states = [trial.state.name for trial in counted(study_in(tmp_path))]
    assert len(states) == 12
    assert states.count("PRUNED") == capsys.readouterr().out.count("is left out by hydra.sweeper.where") > 0


@pytest.mark.parametrize("name", ["search", "pareto_search"])
def test_the_shipped_searches_start(loader, start, runner, tmp_path, name: str) -> None:
    sweeper = loader.load_configuration(name, [], RunMode.MULTIRUN).hydra.sweeper
    options = {key: value for key, value in sweeper.items() if key not in ("_target_", "params")}
    assert SearchOptions.load({"params": sweeper.params, **options})
    assert start(name=name, params=sweeper.params, **options | {"n_trials": 3}) == 0
    assert len(runner.calls) == 3
    for record in read_sweep(tmp_path / "s"):
        dash_cn, named, *overrides = record.environment["overrides"]
        assert (dash_cn, named) == ("-cn", name)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            assert load(compose(name, overrides)).hash == record.config_hash
    assert yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())["sweep"] == name


def test_composing_a_search_imports_no_optuna() -> None:
    code = "import sys, peftbench.sweep.search\nassert not {'optuna', 'torch', 'pandas'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
