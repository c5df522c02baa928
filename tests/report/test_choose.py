"""The learning rate is chosen by validation figures alone."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support import ROOT

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
    assert set(read(tmp_path)["method=lora"].tries) == {1e-4}


def test_options_of_a_method_make_a_setting_of_its_own(tmp_path: Path) -> None:
    for bits, value in (("none", 0.9), ("nf4", 0.5)):
        for lr, worse in ((1e-3, 0.0), (1e-2, 0.1)):
            config = {"trainer": {"lr": lr}, "method": {"name": "hira", "quantize": bits}}
            run(tmp_path, "hira", lr, 0, value - worse, config=config, run_id=f"{bits}-{lr}")
    found = {choice.setting: choice.tries[1e-3] for choice in choices(read_sweep(tmp_path))}
    assert found == {"method=hira, rank=8, method.quantize=none": 0.9, "method=hira, rank=8, method.quantize=nf4": 0.5}


def test_the_command(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 2
    run(tmp_path, "lora", 1e-4, 0, 0.7)
    assert main([str(tmp_path)]) == 0
    assert "trainer.lr=0.0001" in capsys.readouterr().out


def searched(tiny_run, folder: Path, *overrides: str, lr: float, value: float) -> None:
    """A record of a real configuration, as a run of a search would leave it."""
    from datetime import UTC, datetime

    from peftbench.sweep.grid import Point
    from peftbench.sweep.outcome import blank_record

    record = blank_record(Point(tiny_run(*overrides, f"trainer.lr={lr}"), ()), datetime.now(UTC))
    record.status, record.selection = "ok", {"metric": "validation/accuracy", "value": value}
    record.write(folder / record.run_id)


def test_the_choice_is_carried_into_a_sweep_that_composes(tiny_run, tmp_path: Path, capsys) -> None:
    search = tmp_path / "search"
    for lr, value in ((0.001, 0.7), (0.003, 0.9)):
        searched(tiny_run, search, "method=lora", "rank=4", lr=lr, value=value)
        searched(tiny_run, search, "method=full", lr=lr / 10, value=1 - value)
        searched(tiny_run, search, "method=sparse_lora", "sparsity=topk", "sparsity.ratio=0.75", lr=lr, value=value)
    file = tmp_path / "sweeps" / "final.yaml"
    assert main([str(search), "--write", str(file), "--seeds", "3,4"]) == 0
    assert "peftbench -cn final" in capsys.readouterr().out
    command = [sys.executable, "-m", "peftbench", "-cn", "final", "engine.dry_run=true", f"output_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "6 points" in done.stdout
    ids = {record.run_id for record in read_sweep(search) if record.config["trainer"]["lr"] in (0.003, 0.0001)}
    settings = {run_id.rpartition("-s")[0] for run_id in ids}
    assert all(done.stdout.count(f"{setting}-s{seed}") == 1 for setting in settings for seed in (3, 4))
    written = yaml.safe_load(file.read_text())
    assert written["trainer"]["batch_size"] == 8, "the recipe of the search"
    grids = {grid["method"]: grid for grid in written["hydra"]["sweeper"]["params"]}
    assert (grids["lora"]["trainer.lr"], grids["lora"]["seed"], grids["lora"]["rank.value"]) == (0.003, "3,4", 4)
    assert (grids["full"]["trainer.lr"], "rank.value" in grids["full"]) == (0.0001, False)
    assert (grids["sparse_lora"]["sparsity"], grids["sparse_lora"]["sparsity.ratio"]) == ("topk", 0.75)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write", "final.yaml"], "sweeps/final.yaml"),
        (["--write", "sweeps/a b.yaml"], "sweeps/final.yaml"),
        (["--write", "sweeps/final.yaml", "--seeds", "0-2"], "--seeds 0,1,2"),
    ],
)
def test_a_file_that_cannot_be_a_sweep_is_answered(tiny_run, tmp_path: Path, capsys, arguments, message) -> None:
    searched(tiny_run, tmp_path / "search", lr=0.001, value=0.7)
    assert main([str(tmp_path / "search"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_settings_of_other_recipes_are_not_one_sweep(tiny_run, tmp_path: Path, capsys) -> None:
    searched(tiny_run, tmp_path / "search", "method=lora", lr=0.001, value=0.7)
    searched(tiny_run, tmp_path / "search", "method=hira", "trainer.batch_size=4", lr=0.001, value=0.7)
    assert main([str(tmp_path / "search"), "--write", str(tmp_path / "sweeps" / "x.yaml")]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_what_was_searched_is_what_the_sweep_runs(tiny_run, tmp_path: Path) -> None:
    """Options of the model, and names that are the user's own and no option of a group."""
    mine = ("model.layers=1", "model.name=shallow", "dataset.name=mine", "method=lora", "rank=4")
    searched(tiny_run, tmp_path / "search", *mine, lr=0.003, value=0.9)
    assert main([str(tmp_path / "search"), "--write", str(tmp_path / "sweeps" / "final.yaml"), "--seeds", "0"]) == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def say(*words: str) -> str:
        command = [sys.executable, "-m", "peftbench", "-cn", "final", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    assert "run   lora-mine-shallow-r4-s0-" in say("engine.dry_run=true")
    (record,) = read_sweep(tmp_path / "search")
    composed = yaml.safe_load(say("--cfg", "job"))
    assert composed["model"] == record.config["model"]
    assert composed["dataset"]["_target_"] == record.config["dataset"]["_target_"]


def test_uneven_tries_are_said(tmp_path: Path, capsys) -> None:
    for method, rates in (("lora", (1e-4, 1e-3)), ("hira", (1e-3,))):
        for rate in rates:
            run(tmp_path, method, rate, 0, 0.7)
    assert main([str(tmp_path)]) == 0
    assert "Not the same number of tries: from 1 to 2" in capsys.readouterr().out
