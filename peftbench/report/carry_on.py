"""The sweep that a choice of learning rates is carried on with, as a file: each setting at its own rate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.cli.paths import CONF
from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.report.choose import Choice

SIZES = ("train_size", "validation_size", "eval_size")


def write(found: Sequence[Choice], path: Path, seeds: str) -> None:
    """Write a sweep file: the data, model and recipe of the search, each setting at its rate, with these seeds.

    Sizes of the data are not carried over: a search is often made on a part of it.

    Raises:
        UserError: the name is no sweep's, a seed is no number, or the settings were not searched under one recipe.
    """
    import yaml

    from peftbench.record import write_atomically

    if path.parent.name != "sweeps" or path.suffix != ".yaml" or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", path.stem):
        raise UserError(f"--write {path}: peftbench -cn finds sweeps/NAME.yaml, so write --write sweeps/final.yaml")
    if not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise UserError(f"--seeds {seeds}: write numbers with commas between them, such as --seeds 0,1,2")
    common = _common(found[0])
    for choice in found:
        if _common(choice) != common:
            raise UserError(f"{choice.setting} was searched with another recipe than {found[0].setting}: choose apart")
    groups = [{f"override {name}": _option(name, found[0].example.config[name])} for name in ("dataset", "model")]
    sweep = {
        "defaults": ["config", *groups, "_self_"],
        "sweep": path.stem,
        **common,
        "hydra": {"mode": "MULTIRUN", "sweeper": {"params": [_grid(choice, seeds) for choice in found]}},
    }
    head = "# Every setting at the learning rate it found best on validation, by python -m peftbench.report.choose.\n"
    write_atomically(path, head + yaml.safe_dump(sweep, sort_keys=False, width=120))


def _common(choice: Choice) -> dict[str, Any]:
    """What all settings of one search have alike: data, model and recipe."""
    config = choice.example.config
    parts = {"dataset": _chosen("dataset", config, SIZES), "model": _chosen("model", config, ())}
    return {**parts, "trainer": carried(config["trainer"], ("lr",))}


def _chosen(group: str, config: Mapping[str, Any], without: Sequence[str]) -> dict[str, Any]:
    """All options of a part but those ``without``, and its name where the option that it is of gives it another."""
    part = config[group]
    own = _written(group, _option(group, part)).get("name") == part["name"]
    return ({} if own else {"name": part["name"]}) | carried(part, without)


def _option(group: str, part: Mapping[str, Any]) -> str:
    """The option of a group that a part of a configuration was composed from; its name may be the user's own."""
    fits = {
        path.stem: _written(group, path.stem)
        for path in sorted((CONF / group).glob("*.yaml"))
        if _written(group, path.stem).get("_target_") == part.get("_target_")
    }
    named = [stem for stem, written in fits.items() if written.get("name") == part["name"]]
    unnamed = [stem for stem, written in fits.items() if written.get("name") is None]
    return [*named, *unnamed, *fits, str(part["name"])][0]


def _written(group: str, option: str) -> dict[str, Any]:
    import yaml

    path = CONF / group / f"{option}.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def carried(part: dict[str, Any], without: Sequence[str]) -> dict[str, Any]:
    """The options of a part but those ``without``."""
    return {name: value for name, value in part.items() if name not in ("_target_", "name", *without)}


def _grid(choice: Choice, seeds: str) -> dict[str, Any]:
    """One setting, all its options written out, as a grid over seeds."""
    config = choice.example.config
    grid: dict[str, Any] = {name: _option(name, config[name]) for name in ("method", "sparsity")}
    for part in ("method", "rank", "sparsity"):
        # What is null is so by default, but for the rank: there, null says which of two rules holds.
        options = carried(config.get(part) or {}, ())
        written = {name: "null" if value is None and part == "rank" else value for name, value in options.items()}
        grid |= {f"{part}.{name}": value for name, value in written.items() if value is not None and value != {}}
    return {**grid, "trainer.lr": choice.best, "seed": seeds}
