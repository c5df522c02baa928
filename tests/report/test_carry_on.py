"""What a search chose is what its sweep runs: composed again, each point has the configuration that was searched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import CONF, ROOT, options

from peftbench.record import read_sweep
from peftbench.report.choose import main

PEFT = ("method=peft", "method.config_class=MissConfig")
NESTED = r"method.args={a:{b:[1,null,true,'null','it\'s, (so) \"x\"'],c:''},d:1e-5,e:'1',f:[],g:{}}"
SETTINGS = [
    *([f"method={name}"] for name in options("method")),
    *(["method=sparse_lora", f"sparsity={name}"] for name in options("sparsity")),
    ["method=lora", "rank=fixed_alpha"],
    ["method=lora", "rank.pattern={query:4,key:2}"],
    ["method=lora", r"rank.pattern={layer\.\(0|1\)\.\\d+ x\:y:4}"],
    ["method=lora", "method.targets=[query,key]"],
    ["method=lora", "method.name=mine"],
    [*PEFT, "method.name=miss", "method.alpha_arg=null", "+method.args.init_weights=mini"],
    [*PEFT, "method.name=miss", "~method.rank_args.r", "+method.rank_args.rank=2"],
    [*PEFT, NESTED],
    ["method=peft", "method.name=null_ranks", "method.rank_args=null"],
    ["method=dora", "~method.args.lora_dropout", "method.args.use_rslora=true"],
    ["method=ia3", "method.rank_args={r:1}"],
    ["method=lora", "sparsity=contextual", "sparsity.ratio=null", "sparsity.layers=[0]"],
    ["method=sparse_lora", "sparsity=topk", "sparsity.name=mine", "sparsity.start=0.3"],
]


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
        searched(tiny_run, search, "method=dora", lr=lr, value=value)
        searched(tiny_run, search, "method=sparse_lora", "sparsity=topk", "sparsity.ratio=0.75", lr=lr, value=value)
    file = tmp_path / "sweeps" / "final.yaml"
    assert main([str(search), "--write", str(file), "--seeds", "3,4"]) == 0
    assert "peftbench -cn final" in capsys.readouterr().out
    command = [sys.executable, "-m", "peftbench", "-cn", "final", "engine.dry_run=true", f"output_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "8 points" in done.stdout
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


@pytest.mark.parametrize("overrides", SETTINGS, ids=" ".join)
def test_each_point_has_the_configuration_that_was_searched(
    tiny_run, compose, tmp_path: Path, monkeypatch, overrides
) -> None:
    """Of two points, one a seed, composed by Hydra itself from the words that the sweep makes of its file."""
    searched(tiny_run, tmp_path / "search", *overrides, lr=0.003, value=0.9)
    assert main([str(tmp_path / "search"), "--write", str(tmp_path / "sweeps" / "final.yaml"), "--seeds", "3,4"]) == 0
    monkeypatch.chdir(tmp_path)
    (record,) = read_sweep(tmp_path / "search")
    for point, seed in zip(points_of("final"), (3, 4), strict=True):
        assert point.overrides[:2] == ("-cn", "final")
        found = compose(*point.overrides[2:], name="final").dump()
        assert found == point.run.dump()
        parts = ("method", "dataset", "model", "rank", "sparsity", "trainer")
        assert {part: found[part] for part in parts} == {part: record.config[part] for part in parts}
        assert found["seed"] == seed


def points_of(name: str):
    """The points of a named sweep, as the sweeper finds them."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode

    from peftbench.sweep.grid import grid_points

    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    master = loader.load_configuration(name, [], RunMode.MULTIRUN)
    return grid_points(loader, master, master.hydra.sweeper.params, [])


def test_what_no_override_can_say_is_answered(tiny_run, tmp_path: Path, capsys) -> None:
    """A file of the user's own may have such keys; Hydra's grammar has not."""
    searched(tiny_run, tmp_path / "search", "method=lora", lr=0.003, value=0.9)
    (record,) = read_sweep(tmp_path / "search")
    record.config["rank"]["pattern"] = {"^query": 4}
    record.write(tmp_path / "search" / record.run_id)
    assert main([str(tmp_path / "search"), "--write", str(tmp_path / "sweeps" / "final.yaml")]) == 2
    assert "rank.pattern={'^query': 4} cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists()
