"""Who is compared with whom, and when there is no test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from peftbench.report import sweep
from peftbench.report.baseline import compare


def compared(folder, method="lora"):
    (section,) = sweep.load(folder.path).sections
    found = compare(folder.path, section, method)
    return {setting.label: one for setting, one in zip(section.settings, found, strict=True)}


def test_real_gain_and_tie(folder):
    for seed in range(5):
        folder.classified("lora", seed, accuracy=0.85)
        folder.classified("hira", seed, accuracy=0.95)
        folder.classified("dora", seed, accuracy=0.85)
    found = compared(folder)
    assert {label: one.verdict for label, one in found.items()} == {
        "lora r=8": "baseline",
        "hira r=8": "better",
        "dora r=8": "tie",
    }
    means = {m: np.mean([run.metrics["quality/accuracy"] for run in runs_of(folder, m)]) for m in ("lora", "hira")}
    assert found["hira r=8"].change == pytest.approx(means["hira"] - means["lora"])
    assert (found["hira r=8"].seeds, found["hira r=8"].items, found["hira r=8"].against) == (5, 400, "lora r=8")


def runs_of(folder, method):
    return [run for run in sweep.load(folder.path).records if run.axes["method"] == method]


def test_perplexity_is_a_ratio_and_lower_is_better(folder):
    for seed in range(3):
        folder.modelled("lora", seed, nll=3.0)
        folder.modelled("hira", seed, nll=2.8)
    one = compared(folder)["hira r=8"]
    logs = {
        m: np.mean([np.log(run.metrics["quality/perplexity"]) for run in runs_of(folder, m)]) for m in ("lora", "hira")
    }
    assert one.verdict == "better"
    assert one.change == pytest.approx(np.exp(logs["hira"] - logs["lora"]) - 1)
    assert one.low < one.change < one.high < 0


def test_same_rank_or_no_test(folder):
    for seed in range(2):
        folder.classified("lora", seed, rank=8)
        folder.classified("hira", seed, rank=16)
        folder.classified("ia3", seed, rank=None)
    found = compared(folder)
    assert found["hira r=16"].note == "no lora run at rank 16"
    assert found["ia3"].against == "lora r=8"
    assert compared(folder, "ia3")["hira r=16"].against == "ia3"
    assert {one.note for one in compared(folder, "qlora").values()} == {"no qlora run in this table"}


def chosen(value):
    return {"rule": "best", "metric": "validation/accuracy", "step": 1, "value": value}


def test_the_baseline_is_the_best_on_validation_not_on_evaluation(folder):
    for seed in range(2):
        folder.classified("hira", seed, lr=3e-4)
        folder.classified("lora", seed, lr=1e-4, accuracy=0.97, selection=chosen(0.7))
        folder.classified("lora", seed, lr=1e-3, accuracy=0.80, selection=chosen(0.8))
    (section,) = sweep.load(folder.path).sections
    verdicts = {
        (s.axes["method"], s.options["trainer.lr"]): one
        for s, one in zip(section.settings, compare(folder.path, section, "lora"), strict=True)
    }
    assert verdicts["lora", 1e-3].verdict == "baseline"
    assert verdicts["lora", 1e-4].verdict != "baseline"


def test_another_recipe_is_not_a_baseline(folder):
    for seed in range(2):
        folder.classified("lora", seed)
        record = folder.classified("hira", seed)
        record.config["trainer"]["epochs"] = 3
        record.write(folder.path / record.run_id)
    assert compared(folder)["hira r=8"].note == "lora ran with another trainer.epochs"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"environment": {"device": "cpu", "precision": "bf16"}}, "precision"),
        ({"base": {"revision": "2"}}, "base.revision"),
    ],
)
def test_another_precision_or_base_is_not_a_baseline(folder, changes, what):
    for seed in range(2):
        folder.classified("lora", seed)
        folder.classified("hira", seed, **changes)
    assert compared(folder)["hira r=8"].note == f"lora ran with another {what}"


def drop(path):
    path.unlink()


def shift(path):
    table = pd.read_parquet(path)
    table.assign(id=table["id"] + 1).to_parquet(path)


def repeat(path):
    pd.read_parquet(path).assign(id=0).to_parquet(path)


def relabel(path):
    table = pd.read_parquet(path)
    table.assign(label=1 - table["label"], prediction=1 - table["prediction"]).to_parquet(path)


def falsify(path):
    table = pd.read_parquet(path)
    table.assign(prediction=table["label"]).to_parquet(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop, "has no predictions.parquet"),
        (shift, "did not answer the same items"),
        (repeat, "are not unique"),
        (relabel, "other labels"),
        (falsify, "the predictions give 1.0000"),
    ],
)
def test_no_test_without_the_same_items(folder, damage, reason):
    for seed in range(2):
        folder.classified("lora", seed)
        record = folder.classified("hira", seed)
    damage(folder.path / record.run_id / "predictions.parquet")
    one = compared(folder)["hira r=8"]
    assert one.verdict == "untested"
    assert reason in one.note
    assert one.p is None


def test_no_test_where_a_run_has_no_finite_figure(folder):
    for seed in range(2):
        folder.modelled("lora", seed)
        record = folder.modelled("hira", seed)
    record.metrics["quality/perplexity"] = float("inf")
    record.write(folder.path / record.run_id)
    assert compared(folder)["hira r=8"].note == f"{record.run_id} has no finite perplexity"


def test_order_of_rows_does_not_matter(folder):
    for seed in range(2):
        folder.classified("lora", seed)
        record = folder.classified("hira", seed)
        path = folder.path / record.run_id / "predictions.parquet"
        pd.read_parquet(path).sample(frac=1, random_state=seed).to_parquet(path)
    assert compared(folder)["hira r=8"].verdict == "tie"


def test_one_common_seed_is_no_test(folder):
    folder.classified("lora", 0)
    folder.classified("lora", 1)
    folder.classified("hira", 1)
    assert "one seed in common" in compared(folder)["hira r=8"].note


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "tie"), (0.03, "better")])
def test_known_answers_from_files_of_872_items_and_five_seeds(folder, gap, verdict):
    """Six pairs of systems, each pair in a table of its own: read, checked, tested and corrected as any other."""
    for pair in range(6):
        for seed in range(5):
            for method, accuracy in (("lora", 0.86), ("hira", 0.86 + gap)):
                axes = {"dataset": f"data{pair}"}
                folder.classified(method, seed, accuracy=accuracy, items=872, axes=axes)
    found = [compare(folder.path, section, "lora") for section in sweep.load(folder.path).sections]
    verdicts = [one.verdict for section in found for one in section if one.verdict != "baseline"]
    assert (len(verdicts), {(one.seeds, one.items) for section in found for one in section if one.p}) == (6, {(5, 872)})
    assert verdicts.count(verdict) >= 5
