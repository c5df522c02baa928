"""From command lines to points."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from support import CONF, SWEEPS

from peftbench.cli.paths import register_plugins
from peftbench.errors import UserError
from peftbench.sweep.grid import expand, grid_points, parse


@pytest.fixture(scope="module")
def loader() -> ConfigLoaderImpl:
    register_plugins()
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


def points(loader: ConfigLoaderImpl, params: dict | None, *arguments: str, name: str = "config"):
    from peftbench.cli.overrides import rewrite

    master = loader.load_configuration(name, rewrite(arguments), RunMode.MULTIRUN)
    return grid_points(loader, master, params, rewrite(arguments))


def test_a_grid_is_the_product_of_its_axes(loader) -> None:
    found = points(loader, None, "method=lora,hira", "rank=4,8", "seed=range(3)")
    axes = [(p.run.method.name, p.run.rank.value, p.run.seed) for p in found]
    assert axes == [(m, r, s) for m in ("lora", "hira") for r in (4, 8) for s in range(3)]


def test_the_command_line_replaces_an_axis_of_the_sweep_file(loader) -> None:
    params = {"method": "lora,hira", "rank": "4,8", "seed": "0,1"}
    found = points(loader, params, "rank=16", "seed=5")
    assert [(p.run.method.name, p.run.rank.value, p.run.seed) for p in found] == [("lora", 16, 5), ("hira", 16, 5)]


def test_a_sweep_file_may_hold_several_grids(loader) -> None:
    grids = [{"method": "lora", "trainer.lr": 0.001}, {"method": "hira,full", "trainer.lr": 0.01}]
    found = points(loader, grids, "seed=0,1")
    axes = [(p.run.method.name, p.run.trainer.lr, p.run.seed) for p in found]
    assert axes == [(m, lr, s) for m, lr in (("lora", 0.001), ("hira", 0.01), ("full", 0.01)) for s in (0, 1)]


def test_equal_points_are_one(loader) -> None:
    assert [p.run.method.name for p in points(loader, None, "method=full,lora", "rank=4,8")] == ["full", "lora", "lora"]


def test_a_wrong_point_is_found_before_any_runs(loader) -> None:
    with pytest.raises(UserError, match=r"(?s)rank\.value.*seed=1"):
        points(loader, None, "rank=4,0", "seed=1")


def test_an_interval_is_no_grid(loader) -> None:
    with pytest.raises(UserError, match=r"range"):
        expand(parse(loader, None, ["trainer.lr=interval(1e-4,1e-2)"]))


@pytest.mark.parametrize("name", sorted(path.stem for path in SWEEPS.glob("*.yaml")))
def test_every_point_of_every_sweep_composes(loader, name: str) -> None:
    master = loader.load_configuration(name, [], RunMode.MULTIRUN)
    if "n_trials" in master.hydra.sweeper:
        pytest.skip("a search has no grid; tests/sweep/test_search.py composes its choices")
    found = grid_points(loader, master, master.hydra.sweeper.params, [])
    assert found
    assert all(point.run.sweep == name for point in found)


def test_a_point_says_the_command_that_makes_it(loader) -> None:
    master = loader.load_configuration("demo", [], RunMode.MULTIRUN)
    first = grid_points(loader, master, master.hydra.sweeper.params, [])[0]
    assert first.overrides[:3] == ("-cn", "demo", "method=lora")


def test_composing_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['peftbench', '--cfg', 'job']\n"
        "from peftbench.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "from peftbench.config import RunConfig\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'wandb', 'pandas', 'scipy', 'sklearn', 'matplotlib',"
        " 'optuna', 'bitsandbytes', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sst2" in done.stdout
