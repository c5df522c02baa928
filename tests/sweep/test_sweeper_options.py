"""Options of a grid: what is read of them, and what is said of values of other kinds."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from peftbench.cli.paths import register_plugins
from peftbench.errors import UserError


def swept(**options):
    """What a grid's sweeper makes of its options; nothing is composed for those that are wrong."""
    register_plugins()
    from hydra_plugins.peftbench_plugins import PeftbenchSweeper

    sweeper = PeftbenchSweeper(**{name: OmegaConf.create({"_": value})._ for name, value in options.items()})
    context = type("Context", (), {"config_loader": None})()
    folders = {"run": {"dir": "."}, "sweep": {"dir": ".", "subdir": "${hydra.job.num}"}, "output_subdir": None}
    job = {"env_set": {}, "chdir": None}
    hydra = {"verbose": False, "job": job, "callbacks": {}, "launcher": None, **folders}
    config = OmegaConf.create({"hydra": hydra})
    sweeper.setup(hydra_context=context, task_function=None, config=config)
    return sweeper.sweep([])


@pytest.mark.parametrize(
    ("option", "values", "said"),
    [
        ("where", (True, 1, [1, 2]), "write, for example, \"not \\(method == 'full' and rank > 8\\)\""),
        ("params", ("abc", [1, 2], 0), "leave it out and write axes as they are"),
        ("zip", (2, "method", 0, ["method", 1]), r"write axes that go along together, \[method,trainer.lr\]"),
    ],
)
def test_a_value_of_another_kind_is_said(option: str, values: tuple, said: str) -> None:
    for value in values:
        with pytest.raises(UserError, match=f"hydra.sweeper.{option}: {said}"):
            swept(**{option: value})


def test_one_group_of_axes_may_be_written_without_the_list_around_it() -> None:
    from peftbench.sweep.sweeper_options import GridOptions

    assert GridOptions.load({"zip": ["method", "rank"]}).zip == [["method", "rank"]]
    assert GridOptions.load({"zip": [["method", "rank"], ["seed", "sweep"]]}).zip[1] == ["seed", "sweep"]
    assert GridOptions.load({"zip": None}).zip == GridOptions.load({"zip": []}).zip == []
