"""The sweep that a choice of learning rates is carried on with, as a file: each setting at its own rate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.cli.overrides import as_value
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
    return {**parts, "trainer": _without(config["trainer"], ("lr",))}


def _chosen(group: str, config: Mapping[str, Any], without: Sequence[str]) -> dict[str, Any]:
    """All options of a part but those ``without``; its class and name where the option that it is of has others."""
    part = config[group]
    written = _written(group, _option(group, part))
    return _without(part, [*without, *(key for key in ("_target_", "name") if written.get(key) == part.get(key))])


def _option(group: str, part: Mapping[str, Any]) -> str:
    """The option of a group that a part of a configuration was composed from; its name may be the user's own.

    Of several with its class it is the one of its name, one that leaves the name open, or that which is most like it.
    """
    written = {path.stem: _written(group, path.stem) for path in sorted((CONF / group).glob("*.yaml"))}
    fits = {stem: own for stem, own in written.items() if own.get("_target_") == part.get("_target_")}

    def distance(stem: str) -> tuple[bool, bool, int, int]:
        own = fits[stem]
        others = sum(part.get(key) != value for key, value in own.items())
        return own.get("name") != part["name"], own.get("name") is not None, len(_gone(own, part)), others

    return min(fits, key=distance, default=str(part["name"]))


def _written(group: str, option: str) -> dict[str, Any]:
    """What the file of an option says of its group's part; one of a method may say more (``@package _global_``)."""
    import yaml

    path = CONF / group / f"{option}.yaml"
    whole = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}
    return dict(whole.get(group, whole))


def _gone(own: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    """The keys of an option's mappings that a part's have not: Hydra merges the two, so these must be deleted."""
    pairs = [(name, value, part.get(name)) for name, value in own.items()]
    mappings = [(name, old, new) for name, old, new in pairs if isinstance(old, dict) and isinstance(new, dict)]
    return [f"{name}.{key}" for name, old, new in mappings for key in old if key not in new]


def _without(part: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in names}


def _grid(choice: Choice, seeds: str) -> dict[str, Any]:
    """One setting, all its options written out, as a grid over seeds."""
    config = choice.example.config
    grid: dict[str, Any] = {}
    for group in ("method", "sparsity"):
        option = _option(group, config[group])
        own = _written(group, option)
        deleted = {f"~{group}.{key}": "null" for key in _gone(own, config[group])}
        grid |= {group: option, **deleted, **_overrides(group, _chosen(group, config, ()), own)}
    rank = config.get("rank") or {}
    return {**grid, **_overrides("rank", rank, rank), "trainer.lr": choice.best, "seed": seeds}


def _overrides(group: str, options: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Options as axes of a grid with one value each; with ``++`` where keys may be new to what the option has."""
    grid: dict[str, Any] = {}
    for name, value in options.items():
        key = f"++{group}.{name}" if isinstance(value, dict) or name not in own else f"{group}.{name}"
        grid[key] = value if isinstance(value, int | float) else as_value(key, value)
    return grid
