"""A sweep folder as settings (runs that differ by seed only) in sections (settings that may share one table)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from peftbench.errors import UserError
from peftbench.record import Record, read, read_sweep
from peftbench.report import facts
from peftbench.report.figures import Figure, quality

T = TypeVar("T")
AXES = ("method", "rank", "sparsity", "ratio")
"""What names a setting within a section; dataset and model name the section."""
NOT_DECISIVE = ("seed", "tracker", "engine", "sweep", "output_dir")
"""Parts of a configuration that do not make two runs different settings."""


class Key(NamedTuple):
    """What all runs of one table have in common: only such figures stand side by side."""

    dataset: str
    model: str
    split: str
    size: int | None
    metric: Figure | None
    device: str
    random_weights: bool


@dataclass(frozen=True)
class Setting:
    """Runs that differ by seed only."""

    axes: dict[str, Any]
    options: dict[str, Any]
    """The decisive configuration by dotted name, plus the provenance (data fingerprint, precision, revision)."""
    runs: tuple[Record, ...]
    """Finished, in order of their seeds."""
    planned: int
    """Runs of this configuration whatever became of them."""

    @property
    def label(self) -> str:
        """The setting in a few words."""
        rank = "" if self.axes.get("rank") is None else f" r={self.axes['rank']}"
        sparse = "" if self.axes.get("sparsity") in (None, "none") else f" {self.axes['sparsity']}"
        ratio = "" if self.axes.get("ratio") is None else f" {self.axes['ratio']:g}"
        return f"{self.axes.get('method')}{rank}{sparse}{ratio}"


@dataclass(frozen=True)
class Section:
    """Settings on one dataset, model, evaluation split and device."""

    key: Key
    settings: tuple[Setting, ...]
    extras: tuple[str, ...]
    """Options that must be shown because the axes alone do not tell the settings apart."""

    @property
    def runs(self) -> list[Record]:
        """All finished runs of the section."""
        return [run for setting in self.settings for run in setting.runs]


@dataclass(frozen=True)
class Sweep:
    """Everything the report is made from."""

    folder: Path
    records: tuple[Record, ...]
    sections: tuple[Section, ...]
    unreadable: tuple[str, ...]
    """Run folders that hold no record that can be read: still at work, killed before it was written, or damaged."""

    @property
    def name(self) -> str:
        """The name of the sweep: its folder."""
        return self.folder.resolve().name

    @property
    def failures(self) -> list[Record]:
        """Records of runs that did not finish, in the order of their folders."""
        return [record for record in self.records if record.status != "ok"]


def load(folder: Path, only: Collection[str] | None = None) -> Sweep:
    """Read a sweep folder.

    Args:
        only: ids of the runs to read; None is all of them.

    Raises:
        UserError: there is no such folder, or no record in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give one sweep folder, such as outputs/NAME")
    records = tuple(record for record in read_sweep(folder) if only is None or record.run_id in only)
    if not records:
        raise UserError(f"no run has left a record in {folder} yet: there is nothing to report")
    return Sweep(folder, records, _sections(records), _unreadable(folder) if only is None else ())


def _unreadable(folder: Path) -> tuple[str, ...]:
    """Names of run folders (a config.yaml or a record.json is there) whose record cannot be read."""
    found = (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))
    begun = (path for path in found if any((path / name).exists() for name in ("config.yaml", "record.json")))
    return tuple(path.name for path in begun if read(path) is None)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping by dotted name; lists become JSON text."""
    if isinstance(value, dict) and value:
        parts = (flatten(inner, f"{prefix}.{name}" if prefix else str(name)) for name, inner in value.items())
        return {name: inner for part in parts for name, inner in part.items()}
    return {prefix: json.dumps(value, sort_keys=True, default=str) if isinstance(value, list | dict) else value}


def _decisive(record: Record) -> dict[str, Any]:
    return flatten({name: value for name, value in record.config.items() if name not in NOT_DECISIVE})


def _frozen(options: dict[str, Any]) -> str:
    return json.dumps(options, sort_keys=True, default=str)


def _key(record: Record) -> Key:
    split, size = facts.evaluation(record)
    axes, weights = record.axes, bool(record.base.get("random_weights"))
    device = facts.device(record)
    return Key(str(axes.get("dataset")), str(axes.get("model")), split, size, quality(record.metrics), device, weights)


def _sections(records: Iterable[Record]) -> tuple[Section, ...]:
    records = list(records)
    planned = _grouped(records, lambda record: _frozen(_decisive(record)))
    finished = _grouped([record for record in records if record.status == "ok"], _key)
    sections = []
    for key in sorted(finished, key=str):
        groups = _grouped(finished[key], lambda record: _frozen(_options(record)))
        settings = tuple(_setting(runs, planned) for runs in groups.values())
        sections.append(Section(key, settings, _extras(settings)))
    return tuple(sections)


def _options(record: Record) -> dict[str, Any]:
    # The same words in the configuration can mean other data or another precision on another day: never merge those.
    return {**_decisive(record), **facts.provenance(record)}


def _setting(runs: list[Record], planned: dict[str, list[Record]]) -> Setting:
    axes = {name: runs[0].axes.get(name) for name in AXES}
    ordered = tuple(sorted(runs, key=lambda run: (run.axes.get("seed") or 0, run.run_id)))
    return Setting(axes, _options(runs[0]), ordered, len(planned[_frozen(_decisive(runs[0]))]))


def _extras(settings: tuple[Setting, ...]) -> tuple[str, ...]:
    """Trainer options that vary in the section, and whatever tells settings of equal axes apart."""
    shown = {name for name in varying(settings) if name.startswith("trainer.")}
    for twins in _grouped(settings, lambda setting: _frozen(setting.axes)).values():
        differing = varying(twins)
        shown |= {name for name in differing if name not in facts.PROVENANCE} or differing
    return tuple(sorted(shown))


def varying(settings: Iterable[Setting]) -> set[str]:
    """Names of the options that are not the same in all of ``settings``."""
    options = [setting.options for setting in settings]
    names = {name for mapping in options for name in mapping}
    return {name for name in names if len({repr(mapping.get(name)) for mapping in options}) > 1}


def _grouped(items: Iterable[T], by: Callable[[T], Hashable]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = defaultdict(list)
    for item in items:
        groups[by(item)].append(item)
    return dict(groups)
