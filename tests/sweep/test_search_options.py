"""Options of a search: objectives, constraints, samplers and pruners."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from searching import ACCURACY, MEMORY, SPACE, lose_of_hira, params_of, study_in

from peftbench.errors import UserError
from peftbench.record import Record, read_sweep
from peftbench.report.search import load
from peftbench.sweep.search_options import Constraint, SearchOptions, figure, figures_of
from peftbench.sweep.search_result import best_trials
from peftbench.sweep.search_study import pruner


def test_the_evaluation_split_is_no_objective(start, runner) -> None:
    with pytest.raises(UserError, match="write validation/accuracy"):
        start(*SPACE, objectives=[{"metric": "quality/accuracy", "direction": "maximize"}])
    assert not runner.calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials"),
        ({"n_trials": True}, "hydra.sweeper.n_trials: true and false are no numbers"),
        ({"sampler": "magic"}, "hydra.sweeper.sampler"),
        ({"objectives": []}, "hydra.sweeper.objectives"),
        ({"objectives": [ACCURACY, ACCURACY]}, "once"),
        ({"prune": "median"}, "there is no such option"),
        ({"pruner": "some"}, "hydra.sweeper.pruner"),
        ({"pruner": "median", "objectives": [ACCURACY, MEMORY]}, "takes one objective"),
        ({"pruner": "median", "objectives": [MEMORY]}, "known only at the end"),
        ({"constraints": ["memory/train_peak_bytes < 2"]}, "write 'memory/train_peak_bytes <= 2 GiB'"),
        ({"constraints": 0.5}, "'0.5' is no bound: write"),
        ({"constraints": 0}, "'0' is no bound: write"),
        ({"constraints": [[1]]}, "is no bound: write"),
        ({"where": True}, "hydra.sweeper.where: write, for example"),
        ({"params": "abc"}, "hydra.sweeper.params: leave it out and write axes as they are"),
        ({"constraints": ["quality/accuracy >= 0.5"]}, "evaluation split"),
        ({"constraints": ["validation/accuracy >= 1 GiB"]}, "only figures in bytes"),
        ({"constraints": "memory/train_peak_byte <= 2 GiB"}, "did you mean memory/train_peak_bytes?"),
        ({"objectives": [{**ACCURACY, "metric": "validation/acuracy"}]}, "did you mean validation/accuracy?"),
        ({"objectives": [{**ACCURACY, "metric": "loss"}]}, "which is like validation/accuracy"),
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


def test_why_there_is_no_peak_in_the_engine_s_process_is_said() -> None:
    record = Record("r", "s", "ok", {}, "", {}, environment={"in_process": True})
    with pytest.raises(UserError, match=r"has no such figure; write engine\.in_process=false"):
        figure(record, "memory/train_peak_bytes", "objective")


@pytest.mark.parametrize(("sampler", "n_trials"), [("random", 6), ("nsga2", 6), ("nsga3", 6), ("gp", 11), ("qmc", 6)])
def test_samplers(start, runner, quick, tmp_path, sampler: str, n_trials: int) -> None:
    dimensions = SPACE[1:] if sampler == "qmc" else SPACE
    assert start(*dimensions, sampler=sampler, n_trials=n_trials) == 0
    assert len({tuple(params.values()) for params in params_of(study_in(tmp_path))}) == n_trials


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


@pytest.mark.parametrize("bound", ["validation/loss <= 0", "validation/loss <= 2", "validation/loss >= -5"])
def test_beyond_a_bound_is_a_number_that_every_sampler_takes(bound: str) -> None:
    """Optuna's GP would make an excess of 0 of an infinite one, where all other runs keep the bound."""
    record = Record("r", "s", "ok", {}, "", {})
    record.selection = {"step": 1}
    for value in (None, math.nan, math.inf):
        record.history = [{"step": 1, "validation/loss": value}]
        assert 1 <= Constraint.read(bound).excess(record) < math.inf


@pytest.mark.parametrize("bound", ["validation/loss <= 2", "validation/loss >= 0.5"])
def test_a_figure_that_is_no_number_keeps_no_bound(start, runner, quick, tmp_path, monkeypatch, bound: str) -> None:
    """HiRA is the better one here, and its loss is infinite, which is null in a record."""
    lose_of_hira(runner, monkeypatch, "validation/loss")
    for n_trials in (5, 12):  # TPE begins with ten trials at random
        assert start("method=lora,hira", "rank=range(4,65,4)", n_trials=n_trials, constraints=[bound]) == 0
    about = json.loads((tmp_path / "s" / "search.json").read_text())
    kept = {(trial["params"]["method"], trial["kept"]) for trial in about["trials"]}
    assert kept == {("lora", True), ("hira", False)}
    assert [about["trials"][number]["params"]["method"] for number in about["best"]] == ["lora"]
    assert yaml.safe_load((tmp_path / "s" / "best.yaml").read_text())["method"]["name"] == "lora"
    said = load(tmp_path / "s").lines
    assert [", method lora, " in line for line in said if line.startswith("Best: ")] == [True]


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
