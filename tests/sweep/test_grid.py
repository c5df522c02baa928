"""From command lines to points."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from support import SWEEPS

from peftbench.errors import UserError
from peftbench.sweep.compose import Composer
from peftbench.sweep.grid import expand, grid_points, load, meeting, parse
from peftbench.sweep.search_space import Space


@pytest.fixture
def made(tmp_path, monkeypatch) -> None:
    """What a sweep needs that has to be made first."""
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "provenance.json"):
        path = tmp_path / "outputs/imdb_gpt2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def points(loader: ConfigLoaderImpl, params: dict | None, *arguments: str, name: str = "config", zipped=()):
    from peftbench.cli.overrides import rewrite

    master = loader.load_configuration(name, rewrite(arguments), RunMode.MULTIRUN)
    return grid_points(loader, master, params, rewrite(arguments), zipped)


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


def test_a_pattern_of_ranks_takes_any_names(loader) -> None:
    found = points(loader, {"method": "lora"}, "rank.pattern={query:4},{query:2,key:3}", "rank=8")
    assert [p.run.rank.pattern for p in found] == [{"query": 4}, {"query": 2, "key": 3}]
    (one,) = points(loader, None, "rank.pattern.query=4")
    assert one.run.rank.pattern == {"query": 4}


def test_equal_points_are_one(loader) -> None:
    assert [p.run.method.name for p in points(loader, None, "method=full,lora", "rank=4,8")] == ["full", "lora", "lora"]


def test_a_wrong_point_is_found_before_any_runs(loader) -> None:
    with pytest.raises(UserError, match=r"(?s)rank\.value.*seed=1"):
        points(loader, None, "rank=4,0", "seed=1")


def test_an_interval_is_no_grid(loader) -> None:
    with pytest.raises(UserError, match=r"range"):
        expand(parse(loader, None, ["trainer.lr=interval(1e-4,1e-2)"]))


@pytest.mark.usefixtures("made")
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


def test_the_command_of_a_point_leaves_out_what_its_method_has_no_use_for(loader) -> None:
    found = points(loader, None, "method=lora,vera,full", "rank=4", "rank.alpha_ratio=1")
    said = {point.run.method.name: point.overrides for point in found}
    assert said["lora"] == ("method=lora", "rank.value=4", "rank.alpha_ratio=1")
    assert said["vera"] == ("method=vera", "rank.value=4")
    assert said["full"] == ("method=full",)


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


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=qlora", "trainer.lr=0.02", "rank.pattern={query:4}", "sweep=other"),
        ("method=sparse_lora", "sparsity=magnitude", "sparsity.ratio=0.7", "rank.value=16", "seed=3"),
        ("method=hira", "dataset=movie_reviews", "model=minilm", "dataset.max_length=32", "rank=fixed_alpha"),
        ("method=lora", "trainer={lr:0.1}", "+method.rslora=true", "~rank.pattern"),
        ("trainer.lr=0.5", "method=full", "trainer.batch_size=3"),
        ("trainer.lr=0.5", "trainer={lr:0.1,batch_size:3}", "trainer.batch_size=4"),
        ("method=lora", "trainer.lrr=1"),
    ],
)
@pytest.mark.parametrize("name", ["config", "demo"])
def test_a_point_is_what_hydra_composes(loader, name: str, overrides: tuple[str, ...]) -> None:
    master = loader.load_configuration(name, ["output_dir=elsewhere"], RunMode.MULTIRUN)

    def composed(compose):
        try:
            config = compose(list(overrides))
        except HydraException as error:
            return str(error)
        return OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), resolve=True)

    ours = Composer(loader, master)
    expected = composed(lambda chosen: loader.load_sweep_config(master, chosen))
    assert composed(ours) == expected
    assert composed(ours) == expected, "a second time, when the files are known"


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("name", sorted(path.stem for path in SWEEPS.glob("*.yaml")))
def test_points_of_a_sweep_are_what_hydra_composes(loader, name: str) -> None:
    """Some of every sweep: the first and the last, and between them; of a search its ends."""
    master = loader.load_configuration(name, [], RunMode.MULTIRUN)
    params = master.hydra.sweeper.params
    if "n_trials" in master.hydra.sweeper:
        written = list(Space.of(parse(loader, params, [])).probes())
    else:
        grids = [params] if params is None or OmegaConf.is_dict(params) else params
        written = [overrides for grid in grids for overrides in expand(parse(loader, grid, []))]
    ours = Composer(loader, master)
    for overrides in written[:: -(-len(written) // 3)] + written[-1:]:
        assert load(ours(overrides)) == load(loader.load_sweep_config(master, list(overrides)))


def test_files_are_composed_once_for_each_choice(loader, monkeypatch) -> None:
    calls = []
    held = ConfigLoaderImpl.load_sweep_config
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", lambda *args: calls.append(args[2]) or held(*args))
    found = points(loader, None, "method=lora,hira", "rank=4,8,16", "seed=range(20)")
    assert len(found) == 120
    assert calls == [["method=lora"], ["method=hira"]]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("not (method == 'lora' and rank > 4)", [("lora", 4), ("hira", 4), ("hira", 8), ("full", None)]),
        ("method in ['full', 'hira'] and seed == 0", [("hira", 4), ("hira", 8), ("full", None)]),
        ("rank >= 8 or rank is None", [("lora", 8), ("hira", 8), ("full", None)]),
        ("4 <= rank < 8", [("lora", 4), ("hira", 4)]),
        ("rank * 2 - 8 == 0", [("lora", 4), ("hira", 4)]),
        ("trainer.lr < 0.001", [("full", None)]),
        ("method.targets == 'attention' and rank != 4", [("lora", 8), ("hira", 8)]),
    ],
)
def test_a_condition_chooses_points(loader, where: str, kept: list) -> None:
    found = points(loader, None, "method=lora,hira,full", "rank=4,8")
    if "* 2" in where:
        found = [point for point in found if point.run.rank is not None]
    assert [(p.run.method.name, p.run.axes["rank"]) for p in meeting(found, where)] == kept


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("rnk > 4", "there is no rnk"),
        ("trainer.lrr > 4", "there is no trainer.lrr"),
        ("rank >", "is no expression"),
        ("__import__('os').system('true')", "has a Call in it"),
        ("[x for x in rank]", "has a ListComp in it"),
        ("rank.__class__ == 1", "there is no rank.__class__"),
        ("method > 4", "cannot be said of"),
        ("rank / 0 > 1", "cannot be said of"),
        ("lambda: 1", "has a Lambda in it"),
    ],
)
def test_a_wrong_condition_is_said(loader, where: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        meeting(points(loader, None, "method=lora"), where)


def test_zipped_axes_go_along_together(loader) -> None:
    arguments = ("method=lora,hira", "rank=4,8", "trainer.lr=0.1,0.2", "seed=0,1")
    found = points(loader, None, *arguments, zipped=[["method", "trainer.lr"], ["rank", "seed"]])
    axes = [(p.run.method.name, p.run.rank.value, p.run.trainer.lr, p.run.seed) for p in found]
    assert axes == [("lora", 4, 0.1, 0), ("lora", 8, 0.1, 1), ("hira", 4, 0.2, 0), ("hira", 8, 0.2, 1)]


@pytest.mark.parametrize(
    ("zipped", "said"),
    [(["method", "seed"], "method has 2 values, seed has 3 values"), (["method", "model"], "there is no axis model")],
)
def test_axes_that_cannot_be_zipped_are_said(loader, zipped: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        points(loader, None, "method=lora,hira", "seed=0,1,2", zipped=[zipped])
