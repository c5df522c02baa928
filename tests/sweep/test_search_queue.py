"""What users of Optuna do to a study besides: points that they queue, and trials that they add."""

from __future__ import annotations

import optuna
import pytest
from searching import ACCURACY, MEMORY, SPACE, study_in

from peftbench.errors import UserError
from peftbench.sweep.search_study import counted


def test_a_point_that_is_queued_is_run_next(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=2)
    study_in(tmp_path).enqueue_trial({"rank.value": 5, "method": "hira"})
    start(*SPACE, n_trials=3)
    params = study_in(tmp_path).trials[2].params
    assert (params["rank.value"], params["method"], len(params)) == (5, "hira", 3)
    assert len(runner.calls) == 3


@pytest.mark.parametrize(
    ("queued", "said"),
    [
        ({"rank.value": 128}, "rank.value=128, which is not in IntDistribution(high=64, log=False, low=4, step=1)"),
        ({"method": "dora"}, "method='dora', which is not in CategoricalDistribution(choices=('lora', 'hira'))"),
        ({"rank.value": 8, "trainer.lr": "fast"}, "trainer.lr='fast', which is not in FloatDistribution("),
        ({"trainer.lr": "0.001"}, "trainer.lr='0.001', which is not in FloatDistribution("),
        ({"rank.value": float("inf")}, "rank.value=inf, which is not in IntDistribution("),
        ({"rank": 8}, "rank, which is no dimension of this search: it has method, rank.value, trainer.lr"),
    ],
)
def test_a_point_outside_the_space_fails_unrun(start, runner, quick, tmp_path, capsys, queued: dict, said: str) -> None:
    start(*SPACE, n_trials=2)
    study_in(tmp_path).enqueue_trial(queued)
    assert start(*SPACE, n_trials=5) == 1
    assert f"trial 2 was queued with {said}" in capsys.readouterr().out
    assert len(runner.calls) == 4
    assert start(*SPACE, "engine.dry_run=true", n_trials=6) == 0
    assert start(*SPACE, n_trials=6) == 1
    trials = study_in(tmp_path).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 3
    assert trials[2].user_attrs["reason"].startswith(f"was queued with {said}")
    assert len(runner.calls) == 5


def test_a_queued_trial_that_was_cut_short_is_queued_again_whole(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=2)
    study = study_in(tmp_path)
    study.enqueue_trial({"rank.value": 5, "method": "hira"})
    study.ask()  # and what asked is killed
    start(*SPACE, n_trials=3)
    (third,) = counted(study_in(tmp_path))[2:]
    assert (third.params["rank.value"], third.params["method"]) == (5, "hira")


def added(study: optuna.Study) -> None:
    distributions = {"rank.value": optuna.distributions.IntDistribution(4, 64)}
    values = [2.0] * len(study.directions)
    study.add_trial(optuna.create_trial(params={"rank.value": 8}, distributions=distributions, values=values))


REFUSED = r"^trial 2 of the study s is not of this search \(added from outside.*no point that finished is run again$"


def test_a_trial_that_was_added_is_no_damage(start, runner, quick, tmp_path) -> None:
    start(*SPACE, n_trials=2)
    added(study_in(tmp_path))
    for more in ((), ("engine.dry_run=true",)):
        with pytest.raises(UserError, match=REFUSED):
            start(*SPACE, *more, n_trials=4)
    (tmp_path / "s" / "study.journal").rename(tmp_path / "study.journal")
    assert start(*SPACE, n_trials=4) == 0
    assert len(runner.calls) == 4


@pytest.mark.parametrize("objectives", [[ACCURACY], [ACCURACY, MEMORY]])
def test_a_trial_that_is_added_meanwhile_is_said_at_the_end(start, runner, quick, tmp_path, objectives: list) -> None:
    def add(run) -> str:
        if len(runner.calls) == 2:
            added(study_in(tmp_path))
        return "ok"

    runner.status = add
    with pytest.raises(UserError, match=REFUSED):
        start(*SPACE, n_trials=4, objectives=objectives)
    assert (tmp_path / "s" / "search.json").exists()
