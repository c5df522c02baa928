"""The learning rate is chosen by validation figures alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest

from peftbench.record import Record, read_sweep
from peftbench.report import sweep
from peftbench.report.choose import choices, main, table
from peftbench.report.table import write


def run(folder: Path, method: str, lr: float, seed: int, value: float, **changes) -> None:
    fields = {
        "run_id": f"{method}-{lr}-{seed}",
        "sweep": "fair",
        "status": "ok",
        "config": {"trainer": {"lr": lr}},
        "config_hash": "h",
        "axes": {"method": method, "rank": 8, "seed": seed},
        "metrics": {"quality/accuracy": 1 - value},
        "selection": {"metric": "validation/accuracy", "value": value},
    }
    record = Record(**{**fields, **changes})
    record.write(folder / record.run_id)


def read(folder: Path):
    from peftbench.record import read_sweep

    return {choice.setting.split(",")[0]: choice for choice in choices(read_sweep(folder))}


def test_the_best_validation_figure_is_chosen_whatever_the_evaluation_says(tmp_path: Path) -> None:
    for lr, value in ((1e-4, 0.7), (1e-3, 0.9), (1e-2, 0.6)):
        run(tmp_path, "lora", lr, 0, value)
    assert read(tmp_path)["method=lora"].best == 1e-3


def test_seeds_are_averaged(tmp_path: Path) -> None:
    for seed, (low, high) in enumerate(((0.9, 0.5), (0.6, 0.8), (0.6, 0.9))):
        run(tmp_path, "lora", 1e-4, seed, low)
        run(tmp_path, "lora", 1e-3, seed, high)
    assert read(tmp_path)["method=lora"].tries == pytest.approx({1e-4: 0.7, 1e-3: 2.2 / 3})


def test_the_choice_can_be_recomputed_from_the_table_of_runs(folder) -> None:
    """From the CSV alone: mean over seeds of the selected checkpoint's figure, the best rate of each method."""
    for method, best in (("lora", 1e-3), ("hira", 1e-2)):
        for lr, seed in itertools.product((1e-4, 1e-3, 1e-2), range(2)):
            folder.classified(method, seed, lr=lr, accuracy=0.9 if lr == best else 0.8 + seed / 100)
    folder.run("full", lr=1e-1, status="failed", reason="the loss is not finite")
    write(sweep.load(folder.path))
    rows = pd.read_csv(folder.path / "results.csv")
    means = rows.groupby(["method", "config.trainer.lr"])["validation/accuracy"].mean().dropna()
    chosen = dict(means.groupby("method").idxmax().tolist())
    assert chosen == {choice.example.axes["method"]: choice.best for choice in choices(read_sweep(folder.path))}
    assert chosen == {"lora": 1e-3, "hira": 1e-2}
    assert set(rows["selection/step"].dropna()) == {1}


def test_losses_are_minimized_and_an_end_of_the_range_is_said(tmp_path: Path) -> None:
    for lr, value in ((1e-4, 3.0), (1e-3, 2.0)):
        run(tmp_path, "lora", lr, 0, value, selection={"metric": "validation/mlm_loss", "value": value})
    choice = read(tmp_path)["method=lora"]
    assert choice.best == 1e-3
    assert choice.at_an_end
    assert "at an end of the range" in table([choice])


def test_failed_tries_have_no_figure(tmp_path: Path) -> None:
    run(tmp_path, "lora", 1e-4, 0, 0.7)
    run(tmp_path, "lora", 1e-1, 0, 0.99, status="failed")
    run(tmp_path, "lora", 1e-2, 0, 0.99, status="skipped")
    choice = read(tmp_path)["method=lora"]
    assert set(choice.tries) == {1e-4}
    assert set(choice.runs) == {1e-4, 1e-1}, "what cannot be is no try"


def test_what_was_interrupted_is_no_try(tmp_path: Path) -> None:
    for lr, value in ((0.001, 0.7), (0.002, 0.9), (0.004, 0.6)):
        run(tmp_path, "lora", lr, 0, value)
        run(
            tmp_path,
            "lora",
            lr,
            1,
            value,
            **({"status": "killed", "reason": "interrupted by Ctrl-C"} if lr == 0.002 else {}),
        )
    choice = read(tmp_path)["method=lora"]
    assert choice.runs == {0.001: [0.7, 0.7], 0.002: [0.9], 0.004: [0.6, 0.6]}


def diverged(folder: Path, method: str, **values: list[float | None]) -> None:
    """Runs of a method at learning rates ``e3`` (1e-3) and so on, a figure a seed; None where it failed."""
    for name, figures in values.items():
        for seed, value in enumerate(figures):
            status = "failed" if value is None else "ok"
            run(folder, method, float(f"1e-{name[1:]}"), seed, value or 0.0, status=status)


@pytest.mark.parametrize(("metric", "whole", "survivor"), [("accuracy", 0.80, 0.81), ("mlm_loss", 0.20, 0.19)])
def test_a_rate_where_seeds_diverged_does_not_win_on_its_survivors(
    tmp_path: Path, capsys, metric: str, whole: float, survivor: float
) -> None:
    for lr, value, statuses in ((1e-3, whole, ["ok"] * 3), (1e-2, survivor, ["ok", "failed", "killed"])):
        selection = {"metric": f"validation/{metric}", "value": value}
        for seed, status in enumerate(statuses):
            run(tmp_path, "lora", lr, seed, 0, status=status, selection=selection)
    assert read(tmp_path)["method=lora"].best == 1e-3
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"| **{whole:.4f}** | {survivor:.4f} (1 of 3 seeds) | trainer.lr=0.001 (at an end of the range) |" in said
    assert "did not finish" in said


def test_a_rate_of_fewer_seeds_does_not_win_on_a_lucky_one(tmp_path: Path, capsys) -> None:
    diverged(tmp_path, "lora", e4=[0.6, 0.7, 0.8], e3=[0.9], e2=[0.1, 0.2, 0.3])
    assert read(tmp_path)["method=lora"].best == 1e-4
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "| **0.7000** | 0.9000 (1 of 3 seeds) | 0.2000 | trainer.lr=0.0001 (at an end of the range) |" in said
    assert "of the others none that has fewer seeds than another one" in said


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({"e3": [0.80, 0.80, 0.80], "e2": [0.81, None, 0.81, 0.81]}, 1e-3),  # one that diverged has more seeds
        ({"e4": [0.80, 0.81, 0.79, 0.80, None], "e3": [0.82, 0.82, 0.82], "e2": [0.95]}, 1e-3),
        ({"e4": [0.6, None], "e3": [0.7, None], "e2": [0.9, None, None]}, 1e-2),
        ({"e4": [0.6, 0.6, None], "e3": [0.9, None, None]}, 1e-4),
    ],
)
def test_rates_that_diverged_come_last_and_then_those_of_fewer_seeds(tmp_path: Path, rates, best: float) -> None:
    diverged(tmp_path, "lora", **rates)
    assert read(tmp_path)["method=lora"].best == best


def test_where_seeds_diverged_at_every_rate_the_best_of_the_rest_is_chosen(tmp_path: Path) -> None:
    diverged(tmp_path, "lora", e4=[0.6, None], e3=[0.9, None], e2=[None, None])
    choice = read(tmp_path)["method=lora"]
    assert choice.best == 1e-3
    row = table([choice]).splitlines()[-1]
    assert "| 0.6000 (1 of 2 seeds) | **0.9000** (1 of 2 seeds) | (0 of 2 seeds) | trainer.lr=0.001 |" in row


def test_tries_and_the_ends_of_the_range_count_what_failed(tmp_path: Path, capsys) -> None:
    diverged(tmp_path, "hira", e4=[0.5], e3=[0.51], e2=[0.6])
    diverged(tmp_path, "lora", e4=[0.5], e3=[0.51], e2=[None])
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "trainer.lr=0.01 (at an end of the range)" in said
    assert "(0 of 1 seeds) | trainer.lr=0.001 |" in said
    assert "number of tries" not in said


def test_a_setting_of_which_no_run_finished_is_said(tmp_path: Path, capsys) -> None:
    diverged(tmp_path, "lora", e4=[0.5])
    diverged(tmp_path, "full", e4=[None])
    assert main([str(tmp_path)]) == 0
    assert "No run finished of method=full, rank=8." in capsys.readouterr().out


def test_options_of_a_method_make_a_setting_of_its_own(tmp_path: Path) -> None:
    for bits, value in (("none", 0.9), ("nf4", 0.5)):
        for lr, worse in ((1e-3, 0.0), (1e-2, 0.1)):
            config = {"trainer": {"lr": lr}, "method": {"name": "hira", "quantize": bits}}
            run(tmp_path, "hira", lr, 0, value - worse, config=config, run_id=f"{bits}-{lr}")
    found = {choice.setting: choice.tries[1e-3] for choice in choices(read_sweep(tmp_path))}
    assert found == {"method=hira, rank=8, method.quantize=none": 0.9, "method=hira, rank=8, method.quantize=nf4": 0.5}


def test_runs_of_another_recipe_are_no_seeds_of_a_rate(tmp_path: Path, capsys) -> None:
    """As where a sweep varies the epochs too, or where the first try named another column and failed."""
    for epochs, value in ((1.0, 0.4), (8.0, 0.9)):
        for seed in (0, 1):
            config = {"trainer": {"lr": 1e-3, "epochs": epochs}, "seed": seed, "sweep": f"{epochs}"}
            run(tmp_path, "lora", 1e-3, seed, value, config=config, run_id=f"{epochs}-{seed}")
    config = {"trainer": {"lr": 1e-3, "epochs": 8.0}, "dataset": {"text_column": "txt"}}
    run(tmp_path, "lora", 1e-3, 0, 0.0, config=config, run_id="typo", status="failed")
    found = {choice.setting: choice.tries for choice in choices(read_sweep(tmp_path))}
    one, eight = ({1e-3: pytest.approx(value)} for value in (0.4, 0.9))
    assert found == {
        "method=lora, rank=8, trainer.epochs=1.0": one,
        "method=lora, rank=8, trainer.epochs=8.0": eight,
    }
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "seeds)" not in said
    assert "No run finished of method=lora, rank=8, trainer.epochs=8.0, dataset.text_column=txt." in said


@pytest.mark.parametrize(
    ("part", "ways"),
    [
        (
            "sparsity",
            {
                "sparsity.schedule=oneshot": {"schedule": "oneshot"},
                "sparsity.schedule=gradual": {"schedule": "gradual"},
            },
        ),
        ("rank", {"rank.alpha=16.0": {"alpha": 16.0}, "rank.alpha_ratio=2.0": {"alpha_ratio": 2.0, "alpha": None}}),
    ],
)
def test_options_of_rank_and_sparsity_are_not_averaged_either(tmp_path: Path, part: str, ways: dict) -> None:
    """What settings have alike is not said of them."""
    for (name, options), value in zip(ways.items(), (0.9, 0.5), strict=True):
        config = {"trainer": {"lr": 1e-3}, "method": {"name": "lora", "dropout": 0.0}, part: options}
        run(tmp_path, "lora", 1e-3, 0, value, config=config, run_id=name)
    found = {choice.setting: choice.tries[1e-3] for choice in choices(read_sweep(tmp_path))}
    assert found == {f"method=lora, rank=8, {name}": value for name, value in zip(ways, (0.9, 0.5), strict=True)}


def test_the_command(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 2
    run(tmp_path, "lora", 1e-4, 0, 0.7)
    assert main([str(tmp_path)]) == 0
    assert "trainer.lr=0.0001" in capsys.readouterr().out


def test_uneven_tries_are_said(tmp_path: Path, capsys) -> None:
    for method, rates in (("lora", (1e-4, 1e-3)), ("hira", (1e-3,))):
        for rate in rates:
            run(tmp_path, method, rate, 0, 0.7)
    assert main([str(tmp_path)]) == 0
    assert "Not the same number of tries: from 1 to 2" in capsys.readouterr().out


def test_every_figure_has_a_table_under_its_own_name(tmp_path: Path, capsys) -> None:
    """As where data sets of several tasks are in one folder; their rows alternate there."""
    for method, lr in itertools.product(("hira", "lora"), (1e-4, 1e-3)):
        for data, metric, value in (("sst2", "accuracy", 0.8 + lr), ("wikitext2", "perplexity", 30 + lr)):
            selection = {"metric": f"validation/{metric}", "value": value}
            axes = {"method": method, "dataset": data, "seed": 0}
            run(tmp_path, method, lr, 0, 0.0, selection=selection, axes=axes, run_id=f"{method}-{data}-{lr}")
    assert main([str(tmp_path)]) == 0
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert [head.partition(" ")[0] for head in tables[::2]] == ["validation/accuracy", "validation/perplexity"]
    assert [[row.split("|")[-2] for row in rows.splitlines()[2:]] for rows in tables[1::2]] == [
        [" trainer.lr=0.001 (at an end of the range) "] * 2,
        [" trainer.lr=0.0001 (at an end of the range) "] * 2,
    ]
    assert ("sst2" in tables[1], "sst2" in tables[3]) == (True, False)
