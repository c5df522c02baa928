"""Searches, with a runner that computes its figures instead of training."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from optuna.importance import get_param_importances
from support import CONF, SWEEPS

from peftbench import report
from peftbench.cli.overrides import rewrite
from peftbench.cli.paths import register_plugins
from peftbench.errors import UserError
from peftbench.record import Record, read, read_sweep
from peftbench.sweep import command, engine, search
from peftbench.sweep.compose import Composer
from peftbench.sweep.grid import Point, load, parse
from peftbench.sweep.progress import Progress
from peftbench.sweep.search_options import Constraint, SearchOptions, figures_of
from peftbench.sweep.search_result import best_trials
from peftbench.sweep.search_space import Choice, Number, Space
from peftbench.sweep.search_study import counted, pruner

ACCURACY = {"metric": "validation/accuracy", "direction": "maximize"}
MEMORY = {"metric": "memory/train_peak_bytes", "direction": "minimize"}
SPACE = ("method=lora,hira", "rank=int(interval(4,64))", "trainer.lr=tag(log, interval(1e-5,1e-2))")


@pytest.fixture(scope="module")
def loader() -> ConfigLoaderImpl:
    register_plugins()
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


@pytest.fixture
def space(loader):
    return lambda *overrides: Space.of(parse(loader, None, overrides))


class Runner:
    """In place of `engine.runner`: figures by formula; may kill its process or fail at given calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.slots = 1
        self.at_work: list[Point] = []
        self.most = 0
        self.kill_at: int | None = None
        self.interrupt_at: int | None = None
        self.status = lambda run: "ok"

    @contextmanager
    def __call__(self, points, total, launcher=None):
        self.at_work = []
        self.progress = Progress(total)
        yield self

    @property
    def free(self) -> bool:
        return len(self.at_work) < self.slots

    def submit(self, point, judge=None) -> None:
        self.at_work.append(point)
        self.most = max(self.most, len(self.at_work))

    def wait(self) -> list[Record]:
        """The one that was submitted last ends first."""
        return [self.carry_out(self.at_work.pop())]

    def carry_out(self, point) -> Record:
        self.calls.append(point.run.run_id)
        if len(self.calls) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        run, record = point.run, engine.blank_record(point, datetime.now(UTC))
        record.status = self.status(run)
        accuracy = 0.9 - (math.log10(run.trainer.lr) + 3) ** 2 / 20 + (run.method.name == "hira") / 100
        accuracy += math.log2(run.rank.value) / 100
        record.history = [
            {"step": 1, "validation/accuracy": accuracy, "validation/loss": 1.0},
            {"step": 2, "validation/accuracy": 0.0, "validation/loss": 2.0},
        ]
        record.selection = {"rule": "best", "metric": "validation/accuracy", "step": 1, "value": accuracy}
        # The evaluation split prefers the opposite: a search that selects by it is found out.
        record.metrics = {"quality/accuracy": 1 - accuracy, "memory/train_peak_bytes": 1000 * run.rank.value}
        record.write(point.folder)
        return record


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    fake = Runner()
    monkeypatch.setattr(engine, "runner", fake)
    monkeypatch.setattr(command, "show", lambda folder: None)
    return fake


@pytest.fixture(scope="module")
def composed() -> dict:
    """What was composed of files, for all tests: it does not depend on the values that a test writes."""
    return {}


@pytest.fixture
def quick(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    def knowing(*arguments) -> Composer:
        composer = Composer(*arguments)
        composer._files = composed
        return composer

    monkeypatch.setattr(search, "Composer", knowing)


@pytest.fixture
def start(loader, tmp_path):
    """Start a search in ``tmp_path/s`` and return the exit code."""

    def started(*arguments: str, name: str = "config", params: dict | None = None, **options) -> int:
        written = rewrite([*arguments, f"output_dir={tmp_path}", "sweep=s", "tracker=none"])
        master = loader.load_configuration(name, written, RunMode.MULTIRUN)
        defaults = {"n_trials": 6, "sampler": "tpe", "seed": 0, "objectives": [ACCURACY], "storage": None}
        try:
            search.carry_out(loader, master, {"params": params, **defaults, **options}, written)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return started


def study_in(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str((folder / "s" / "study.journal").absolute()))
    return optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))


def params_of(study: optuna.Study) -> list[dict]:
    return [trial.params for trial in counted(study)]


# --- dimensions


@pytest.mark.parametrize(
    ("written", "dimension"),
    [
        ("method=lora,hira", Choice("method", ("lora", "hira"))),
        ("method=choice(lora,hira,lora)", Choice("method", ("lora", "hira"))),
        ("rank=4,8", Choice("rank.value", ("4", "8"))),
        ("rank=int(interval(4,64))", Number("rank.value", 4, 64, 1, False, True)),
        ("rank=tag(log, int(interval(4,64)))", Number("rank.value", 4, 64, 1, True, True)),
        ("rank=range(4,65,4)", Number("rank.value", 4, 64, 4, False, True)),
        ("rank=range(4,64,4)", Number("rank.value", 4, 60, 4, False, True)),
        ("trainer.warmup_ratio=interval(0,1)", Number("trainer.warmup_ratio", 0.0, 1.0, None, False, False)),
        ("trainer.lr=tag(log, interval(1e-5,1e-2))", Number("trainer.lr", 1e-5, 1e-2, None, True, False)),
    ],
)
def test_dimensions_are_written_as_sweeps(space, written: str, dimension) -> None:
    found = space(written, "seed=3")
    assert found.dimensions == (dimension,)
    assert found.fixed == ("seed=3",)
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask(found.distributions()).params
    (value,) = sampled.values()
    assert found.overrides(sampled) == ("seed=3", f"{dimension.key}={dimension.write(value)}")


def test_a_stepped_float_has_no_rounding_error_in_its_overrides(space) -> None:
    (dimension,) = space("trainer.warmup_ratio=range(0.1,0.75,0.1)").dimensions
    assert (dimension.low, round(dimension.high, 6), dimension.step) == (0.1, 0.7, 0.1)
    assert dimension.write(0.1 + 0.2) == "0.3"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("method=lora", "something to vary"),
        ("sweep=a,b", "changes no result"),
        ("tracker=none,wandb", "changes no result"),
        ("trainer.lr=interval(1,1)", "low < high"),
        ("trainer.lr=tag(log, interval(0,1))", "above 0"),
        ("trainer.lr=tag(square, interval(0,1))", "only tag is log"),
        ("rank=tag(log, range(4,9))", "only an interval takes a tag"),
        ("method=shuffle(lora,hira)", "no order to shuffle"),
        ("rank=range(8,8)", "empty"),
    ],
)
def test_what_cannot_be_searched_is_refused(space, written: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        space(written)


@pytest.mark.parametrize("written", ["method=lora,nope", "rank=int(interval(0,8))", "trainer.lr=interval(0.1,20)"])
def test_every_option_and_bound_is_checked_before_the_first_trial(start, runner, tmp_path, written: str) -> None:
    with pytest.raises(UserError, match="at the point"):
        start(written)
    assert not runner.calls
    assert not (tmp_path / "s").exists()


# --- options and objectives


def test_the_evaluation_split_is_no_objective(start, runner) -> None:
    with pytest.raises(UserError, match="write validation/accuracy"):
        start(*SPACE, objectives=[{"metric": "quality/accuracy", "direction": "maximize"}])
    assert not runner.calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials"),
        ({"sampler": "magic"}, "hydra.sweeper.sampler"),
        ({"objectives": []}, "hydra.sweeper.objectives"),
        ({"objectives": [ACCURACY, ACCURACY]}, "once"),
        ({"prune": "median"}, "there is no such option"),
        ({"pruner": "some"}, "hydra.sweeper.pruner"),
        ({"pruner": "median", "objectives": [ACCURACY, MEMORY]}, "takes one objective"),
        ({"pruner": "median", "objectives": [MEMORY]}, "known only at the end"),
        ({"constraints": ["memory/train_peak_bytes < 2"]}, "write 'memory/train_peak_bytes <= 2 GiB'"),
        ({"constraints": ["quality/accuracy >= 0.5"]}, "evaluation split"),
        ({"constraints": ["validation/accuracy >= 1 GiB"]}, "only figures in bytes"),
        ({"where": "rnk > 4"}, "there is no rnk"),
        ({"sampler": "qmc"}, "numbers only"),
        ({"sampler": "cmaes"}, "numbers only"),
    ],
)
def test_wrong_options_are_named(start, runner, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(*SPACE, **options)


def test_figures_are_those_of_the_selected_checkpoint() -> None:
    record = Record("r", "s", "ok", {}, "", {})
    record.history = [{"step": 1, "validation/loss": 1.0}, {"step": 2, "validation/loss": 2.0}]
    record.selection = {"step": 1}
    record.metrics = {"quality/loss": 3.0, "time/train_s": 4, "memory/source": "process_rss", "energy/train_j": None}
    assert figures_of(record) == {"validation/loss": 1.0, "time/train_s": 4.0}


def test_an_objective_that_no_run_has_stops_the_search_and_can_be_corrected(start, runner, quick, tmp_path) -> None:
    with pytest.raises(UserError, match=r"validation/acuracy.*it has .*validation/accuracy"):
        start(*SPACE, objectives=[{"metric": "validation/acuracy", "direction": "maximize"}])
    assert len(runner.calls) == 1
    assert start(*SPACE) == 0
    assert len(counted(study_in(tmp_path))) == 6
    assert len(runner.calls) == 6, "the run that was there is used"


# --- the loop


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


def test_a_failed_run_is_a_failed_trial_and_the_search_goes_on(start, runner, quick, tmp_path) -> None:
    runner.status = lambda run: "oom" if run.method.name == "hira" else "ok"
    assert start("method=lora,hira", "rank=range(4,65,4)", n_trials=8) == 1
    states = {trial.user_attrs["status"]: trial.state.name for trial in counted(study_in(tmp_path))}
    assert states == {"ok": "COMPLETE", "oom": "FAIL"}
    assert sorted(runner.calls) == sorted(set(runner.calls)), "a failed point is not tried twice in one search"


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
    with pytest.raises(UserError, match=r"dimensions, configuration.*write sweep=NAME"):
        start("method=lora,hira", n_trials=4)
    with pytest.raises(UserError, match=r"\(configuration differ"):
        start(*SPACE, "trainer.epochs=2", n_trials=4)
    with pytest.raises(UserError, match="objectives"):
        start(*SPACE, objectives=[ACCURACY, MEMORY], n_trials=4)
    assert start(*SPACE, n_trials=3, sampler="random", seed=5) == 0


def test_two_searches_in_one_folder_are_refused(start, runner, quick, tmp_path) -> None:
    def second(run) -> str:
        with pytest.raises(UserError, match="another search is at work"):
            start(*SPACE)
        return "ok"

    runner.status = second
    start(*SPACE, n_trials=1)


def test_a_folder_that_cannot_be_written_is_said(start, runner, quick, tmp_path) -> None:
    (tmp_path / "s").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        start(*SPACE)
    assert not runner.calls


def test_a_dry_run_leaves_nothing(start, runner, quick, tmp_path, capsys) -> None:
    assert start(*SPACE, "engine.dry_run=true") == 0
    assert not (tmp_path / "s").exists()
    assert "trainer.lr: log float from 1e-05 to 0.01" in capsys.readouterr().out


def test_rerun_is_refused(start, runner, quick) -> None:
    with pytest.raises(UserError, match=r"engine\.rerun"):
        start(*SPACE, "engine.rerun=true")


@pytest.mark.parametrize(("sampler", "n_trials"), [("random", 6), ("nsga2", 6), ("nsga3", 6), ("gp", 11), ("qmc", 6)])
def test_samplers(start, runner, quick, tmp_path, sampler: str, n_trials: int) -> None:
    dimensions = SPACE[1:] if sampler == "qmc" else SPACE
    assert start(*dimensions, sampler=sampler, n_trials=n_trials) == 0
    assert len({tuple(params.values()) for params in params_of(study_in(tmp_path))}) == n_trials


def test_a_database_holds_the_study_on_request(start, runner, quick, tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    start(*SPACE, storage=url, n_trials=2)
    start(*SPACE, storage=url, n_trials=3)
    assert len(counted(optuna.load_study(study_name="s", storage=url))) == 3
    assert not (tmp_path / "s" / "study.journal").exists()
    with pytest.raises(UserError, match="cannot be opened"):
        start(*SPACE, storage="nosuch://place")


# --- constraints, conditions, pruning


@pytest.mark.parametrize(
    ("text", "metric", "at_most", "bound"),
    [
        ("memory/train_peak_bytes <= 2 GiB", "memory/train_peak_bytes", True, 2 * 2**30),
        ("memory/eval_peak_bytes<=1.5e3", "memory/eval_peak_bytes", True, 1500),
        ("validation/accuracy >= 0.8", "validation/accuracy", False, 0.8),
        ("size/adapter_bytes <= 300 kB", "size/adapter_bytes", True, 300_000),
    ],
)
def test_a_constraint_is_written_as_it_is_said(text: str, metric: str, at_most: bool, bound: float) -> None:
    assert Constraint.read(text) == Constraint(metric=metric, at_most=at_most, bound=bound)


@pytest.mark.parametrize("objectives", [[ACCURACY], [ACCURACY, MEMORY]])
def test_the_best_trials_keep_the_constraints(start, runner, quick, tmp_path, capsys, objectives: list) -> None:
    """Accuracy grows with the rank here, and so does memory: 1,000 bytes a rank."""
    options = {"constraints": ["memory/train_peak_bytes <= 20 kB"], "objectives": objectives, "sampler": "random"}
    assert start("rank=range(4,65,4)", n_trials=14, **options) == 0
    runs = {record.run_id: record for record in read_sweep(tmp_path / "s")}
    ranks = [runs[trial.user_attrs["run_id"]].axes["rank"] for trial in best_trials(study_in(tmp_path))]
    allowed = [record.axes["rank"] for record in runs.values() if record.axes["rank"] <= 20]
    assert max(record.axes["rank"] for record in runs.values()) > 20
    assert max(ranks) == max(allowed)
    (tmp_path / "s").rename(tmp_path / "before")
    start("rank=range(4,65,4)", n_trials=2, **options | {"constraints": ["validation/accuracy >= 9"]})
    assert "no trial keeps" in capsys.readouterr().out


def test_points_that_the_condition_leaves_out_are_not_run(start, runner, quick, tmp_path) -> None:
    assert start("method=lora,hira", "rank=range(4,65,4)", n_trials=12, where="method == 'hira' and rank < 32") == 0
    assert all(r.axes["method"] == "hira" and r.axes["rank"] < 32 for r in read_sweep(tmp_path / "s"))
    states = [trial.state.name for trial in counted(study_in(tmp_path))]
    assert len(states) == 12
    assert states.count("PRUNED") > 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("none", "NopPruner"),
        ("median", "MedianPruner"),
        ("hyperband", "HyperbandPruner"),
        ("asha", "SuccessiveHalvingPruner"),
    ],
)
def test_pruners(start, runner, quick, monkeypatch, name: str, kind: str) -> None:
    seen = []
    monkeypatch.setattr(runner, "submit", lambda point, judge=None: seen.append(judge) or runner.at_work.append(point))
    assert start(*SPACE, n_trials=1, pruner=name) == 0
    assert (seen[0] is None) == (name == "none")
    options = SearchOptions.load(
        {
            "params": None,
            "n_trials": 1,
            "sampler": "tpe",
            "seed": 0,
            "objectives": [ACCURACY],
            "storage": None,
            "pruner": name,
        }
    )
    assert type(pruner(options, 9)).__name__ == kind


# --- several objectives


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


@pytest.mark.parametrize(
    ("objectives", "drawn"),
    [
        ([ACCURACY], ["validation/accuracy by trial"]),
        ([ACCURACY, MEMORY], ["validation/accuracy by trial", "validation/accuracy against memory/train_peak_bytes"]),
    ],
)
def test_the_page_says_what_was_found(start, runner, quick, tmp_path, objectives: list, drawn: list[str]) -> None:
    options = {"objectives": objectives, "constraints": ["memory/train_peak_bytes <= 50 kB"]}
    assert start(*SPACE, n_trials=8, sampler="random", **options) == 0
    text = report.write(tmp_path / "s").read_text()
    part = text.partition('<section id="search">')[2].partition("</section>")[0]
    best = best_trials(study_in(tmp_path))
    assert all(trial.user_attrs["run_id"] in part for trial in best)
    assert "Importance for validation/accuracy: " in part
    assert all(f"<figcaption>{title}</figcaption>" in part for title in drawn)
    # Each trial is a mark in each of its drawings.
    assert part.count("<title>trial ") == 8 * part.count("<svg")
    command = f"peftbench --config-dir {tmp_path / 's'} -cn best"
    assert (command in part) == (len(objectives) == 1)
    assert "http" not in part, "it needs nothing but itself"


def test_a_damaged_search_file_costs_its_part_of_the_page_only(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=2)
    (tmp_path / "s" / "search.json").write_text('{"trials": [')
    assert 'id="search"' not in report.write(tmp_path / "s").read_text()


def test_importance_is_for_the_better_end_of_an_objective(start, runner, quick, tmp_path, capsys) -> None:
    """Of a single objective Optuna knows itself which way is better."""
    assert start(*SPACE, n_trials=30, sampler="random") == 0
    study = study_in(tmp_path)
    expected = get_param_importances(study)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in expected.items())
    assert f"importance for validation/accuracy: {shares}" in capsys.readouterr().out
    assert expected != get_param_importances(study, target=lambda trial: trial.values[0]), "the wrong end differs"


# --- shipped files


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
