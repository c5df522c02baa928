"""The sentences above and below a table are true of it: which is best, which is named how, what a tie means."""

from __future__ import annotations

import pytest

from peftbench.report import sweep
from peftbench.report.view import View, views


def only(folder) -> View:
    (view,) = views(sweep.load(folder.path), "lora")
    return view


def test_settings_that_are_called_alike_are_told_apart_by_their_options(folder):
    for rate in (1e-4, 1e-3):
        for seed in range(2):
            folder.classified("hira", seed, lr=rate, accuracy=0.9 if rate == 1e-3 else 0.7)
    folder.classified("hira", 0, rank=16, accuracy=0.6)
    view = only(folder)
    assert view.finding.startswith("Highest mean accuracy: hira r=8 (lr 0.001),")
    names = {view.section.name(setting) for setting in view.settings}
    assert names == {"hira r=8 (lr 0.001)", "hira r=8 (lr 0.0001)", "hira r=16"}


def test_equal_means_are_all_named_and_a_mean_of_fewer_seeds_says_so(folder):
    same = {"metrics": {"quality/accuracy": 0.5}}
    for method in ("lora", "hira"):
        for seed in range(2):
            folder.run(method, seed, **same)
    assert only(folder).finding.startswith("Highest mean accuracy: hira r=8, lora r=8, 50.00")
    folder.run("dora", 0, metrics={"quality/accuracy": 0.8})
    assert only(folder).finding.startswith("Highest mean accuracy: dora r=8, 80.00\u00a0% (1 of 2 seeds).")


def test_ties_for_want_of_seeds_are_said(folder):
    gaps = {"lora": 0.80, "hira": 0.86, "qlora": 0.74, "dora": 0.86, "vera": 0.74, "ia3": 0.86, "shira": 0.74}
    for method, accuracy in gaps.items():
        for seed in range(3):
            folder.classified(method, seed, accuracy=accuracy)
    view = only(folder)
    ties = view.frame[view.frame["verdict"] == "tie"]
    close = sum(ties["p"] < 0.05)
    assert close
    words = f"{close} of these ties would be a difference if nothing else were compared: 3 seeds are few for "
    assert words in view.finding


def test_other_learning_rates_of_the_baseline_are_not_compared_with_it(folder):
    for seed in range(3):
        for rate in (1e-4, 1e-3, 1e-2):
            folder.classified("lora", seed, lr=rate, accuracy=0.9 if rate == 1e-3 else 0.7)
        folder.classified("hira", seed, lr=1e-3, accuracy=0.8)
    view = only(folder)
    verdicts = {view.section.name(row["setting"]): row["verdict"] for row in view.frame.to_dict("records")}
    lora = {name: verdict for name, verdict in verdicts.items() if name.startswith("lora")}
    assert lora == {
        "lora r=8 (lr 0.001)": "baseline",
        "lora r=8 (lr 0.0001)": "untested",
        "lora r=8 (lr 0.01)": "untested",
    }
    # One comparison is left, and nothing is there to correct for.
    (tested,) = view.frame[view.frame["verdict"].isin(["better", "worse", "tie"])].to_dict("records")
    assert tested["against"] == "lora r=8 (lr 0.001)"
    assert tested["p"] == tested["p_holm"]
    assert any(line.startswith("Several learning rates of a method") for line in view.notes)


def test_default_rates_that_differ_are_said(folder):
    folder.classified("lora", lr=1e-3)
    folder.classified("hira", lr=1e-2)
    (line,) = [line for line in only(folder).notes if "earning rate" in line]
    assert line.startswith("Learning rates differ (hira 0.01, lora 0.001):")
    folder.classified("dora", lr=1e-2)
    folder.classified("hira", lr=1e-3)
    assert not [line for line in only(folder).notes if line.startswith("Learning rates differ")]


def test_a_change_over_fewer_seeds_than_the_means_is_said(folder):
    for seed in range(3):
        folder.classified("lora", seed)
    for seed in (1, 2):
        folder.classified("hira", seed)
    assert (
        "The change of hira r=8 is over the 2 seeds that it and its baseline both have, not over all."
        in only(folder).notes
    )
    folder.classified("hira", 0)
    assert not [line for line in only(folder).notes if line.startswith("The change")]


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("threads", {"threads": 1}),
        ("jobs", {"jobs": 2}),
        ("torch", {"versions": {"torch": "2.11.0"}}),
        ("git_commit", {"git_commit": "def"}),
    ],
)
def test_other_circumstances_are_said_also_within_a_method(folder, name, environment):
    usual = {"device": "cpu", "threads": 2, "jobs": 1, "versions": {"torch": "2.13.0"}, "git_commit": "abc"}
    for method in ("lora", "hira"):
        folder.classified(method, 0, environment=usual)
    assert not only(folder).warnings
    for method in ("lora", "hira"):
        folder.classified(method, 1, environment={**usual, **environment})
    (line,) = only(folder).warnings
    assert line.startswith(f"Not alike in {name}: ")


def test_other_items_are_another_table_and_its_title_says_which(folder):
    def data(mark):
        splits = {"evaluation": {"name": "dev", "size": 400}}
        return {"fingerprint": mark * 64, "evaluation_fingerprint": mark * 64, "splits": splits}

    folder.classified("lora", 0, data=data("a"))
    folder.classified("lora", 1, data=data("b"), first=1000)
    titles = [view.title for view in views(sweep.load(folder.path), "lora")]
    assert [title.rpartition(" · ")[2] for title in titles] == ["items aaaaaaaaaaaa", "items bbbbbbbbbbbb"]


def test_settings_with_runs_without_a_finite_figure_are_named(folder):
    """Their means are of fewer runs, and none of these is among those that did not finish."""
    for method, infinite in (("lora", 0), ("hira", 1), ("dora", 3)):
        for seed in range(3):
            run = folder.modelled(method, seed)
            if seed < infinite:
                run.metrics["quality/perplexity"] = float("inf")
                run.write(folder.path / run.run_id)
    (view,) = views(sweep.load(folder.path), "lora")
    said = "Runs of dora r=8, hira r=8 finished without a finite perplexity, and its means leave them out."
    assert [note for note in view.notes if note.startswith("Runs of")] == [said]
