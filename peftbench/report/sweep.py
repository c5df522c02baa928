"""A sweep folder as settings (runs that differ by seed only) in sections (settings that may share one table)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from peftbench.errors import UserError
from peftbench.record import CONFIG, FILE, Record, run_folders
from peftbench.report import facts
from peftbench.report.figures import Figure, missing, quality
from peftbench.report.options import NOT_DECISIVE, flatten, grouped, json_text, last_part, texts, vary
from peftbench.report.reading import read_all, uncollected

T = TypeVar("T")
FAIR = ("dataset.", "model.", "trainer.", *facts.PROVENANCE)
"""Options that must agree with a baseline's before there is a test, but for the learning rate."""
AXES = ("method", "rank", "sparsity", "ratio")
"""What names a setting within a section; dataset and model name the section."""


class Key(NamedTuple):
    """What all runs of one table have in common: only such figures stand side by side."""

    dataset: str
    model: str
    split: str
    size: int | None
    metric: Figure
    device: str
    random_weights: bool
    evaluated: str | None
    """Fingerprint of the evaluation split: other items are another table, whatever they are called."""


@dataclass(frozen=True)
class Setting:
    """Runs that differ by seed only."""

    axes: dict[str, Any]
    runs: tuple[Record, ...]
    """Finished, in order of their seeds."""
    planned: int
    """These, and runs of this configuration that did not finish."""

    @cached_property
    def options(self) -> dict[str, Any]:
        """The decisive configuration by dotted name, plus the provenance (data fingerprint, precision, revision)."""
        config = self.runs[0].config
        decisive = flatten({name: value for name, value in config.items() if name not in NOT_DECISIVE})
        return {**decisive, **facts.provenance(self.runs[0])}

    @cached_property
    def recipe(self) -> str:
        """What must agree with a baseline's, as text; the learning rate each method may have found itself."""
        return repr(sorted((name, value) for name, value in self.options.items() if must_agree(name)))

    @cached_property
    def validation(self) -> float | None:
        """Mean over seeds of the selected checkpoints' validation figure, or None if a run has none."""
        figure = quality(self.runs[0].metrics)
        found: list[Any] = [run.selection.get("value") for run in self.runs]
        named = {run.selection.get("metric") for run in self.runs}
        if named != {figure.validation} or any(map(missing, found)):
            return None
        return math.fsum(found) / len(found)

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

    def name(self, setting: Setting) -> str:
        """A setting in words that no other one of the section has: its label, and where its twins differ from it."""
        return self._names[id(setting)]

    @cached_property
    def _names(self) -> dict[int, str]:
        names = {}
        for label, twins in grouped(self.settings, lambda setting: setting.label).items():
            differing = sorted(varying(twins) & {*self.extras}) if len(twins) > 1 else []
            for twin in twins:
                others = ", ".join(f"{last_part(name)} {twin.options.get(name)}" for name in differing)
                names[id(twin)] = f"{label} ({others})" if others else label
        return names


@dataclass(frozen=True)
class Sweep:
    """Everything the report is made from."""

    folder: Path
    records: tuple[Record, ...]
    sections: tuple[Section, ...]
    unreadable: tuple[str, ...]
    """Run folders that hold no record that can be read: still at work, killed before it was written, or damaged."""
    copies: tuple[str, ...] = ()
    """Folders with the record of a run that another folder holds: the same answers twice are not two seeds."""

    @property
    def name(self) -> str:
        """The name of the sweep: its folder."""
        return self.folder.resolve().name

    @property
    def size(self) -> int:
        """Settings that have a finished run."""
        return sum(len(one.settings) for one in self.sections)


def load(folder: Path, *, workers: int = 1) -> Sweep:
    """Read a sweep folder.

    Args:
        workers: see `read_all`.

    Raises:
        UserError: there is no such folder, or no record in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give one sweep folder, such as outputs/NAME")
    names = run_folders(folder)
    with uncollected():
        found = read_all(folder, names, workers)
        held = _held(names, found)
        records = tuple(held.values())
        if not records:
            raise UserError(f"no run has left a record in {folder} yet: there is nothing to report")
        sections = _sections(records)
    damaged = [name for name, record in zip(names, found, strict=True) if record is None]
    unreadable = tuple(filter(partial(_begun, folder), damaged))
    readable = (name for name, record in zip(names, found, strict=True) if record is not None)
    return Sweep(folder, records, sections, unreadable, tuple(name for name in readable if name not in held))


def _held(names: Sequence[str], found: Sequence[Record | None]) -> dict[str, Record]:
    """Records by the name of their folder, one a run: of several folders the one that is called as the run is."""
    held: dict[str, str] = {}
    for name, record in zip(names, found, strict=True):
        if record is not None and (record.run_id not in held or name == record.run_id):
            held[record.run_id] = name
    chosen = set(held.values())
    return {name: record for name, record in zip(names, found, strict=True) if record is not None and name in chosen}


def _begun(folder: Path, name: str) -> bool:
    """Whether a folder without a readable record is a run's: a config.yaml or a damaged record.json is there."""
    return any((folder / name / file).exists() for file in (CONFIG, FILE))


def _decisive(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Each configuration without what makes no other setting, as texts of its parts: cheap to compare and group by."""
    names = dict.fromkeys(name for record in records for name in record.config if name not in NOT_DECISIVE)
    return list(zip(*(texts([record.config.get(name) for record in records]) for name in names), strict=True))


def _key(record: Record) -> Key:
    split, size = facts.evaluation(record)
    axes, weights = record.axes, bool(record.base.get("random_weights"))
    about = (split, size, quality(record.metrics), facts.device(record), weights, facts.evaluated(record))
    return Key(str(axes.get("dataset")), str(axes.get("model")), *about)


def _sections(records: Sequence[Record]) -> tuple[Section, ...]:
    decisive = _decisive(records)
    unfinished = Counter(decisive[index] for index, record in enumerate(records) if record.status != "ok")
    finished: dict[Key, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, record in enumerate(records):
        if record.status == "ok":
            # The same words in the configuration can mean other data or another precision on another day: these are
            # never merged.
            finished[_key(record)][decisive[index], *facts.provenance(record).items()].append(index)
    sections = []
    for key in sorted(finished, key=str):
        groups = finished[key].values()
        settings = tuple(
            _setting([records[i] for i in group], len(group) + unfinished[decisive[group[0]]]) for group in groups
        )
        sections.append(section(key, settings))
    return tuple(sections)


def section(key: Key, settings: tuple[Setting, ...]) -> Section:
    """A section of these settings, which knows how they are told apart."""
    return Section(key, settings, _extras(settings))


def _setting(runs: list[Record], planned: int) -> Setting:
    axes = {name: runs[0].axes.get(name) for name in AXES}
    ordered = tuple(sorted(runs, key=lambda run: (run.axes.get("seed") or 0, run.run_id)))
    return Setting(axes, ordered, planned)


def _extras(settings: tuple[Setting, ...]) -> tuple[str, ...]:
    """Trainer options that vary in the section, and whatever tells settings of equal axes apart."""
    shown = {name for name in varying(settings) if name.startswith("trainer.")}
    for twins in grouped(settings, lambda setting: json_text(setting.axes)).values():
        differing = varying(twins)
        shown |= {name for name in differing if name not in facts.PROVENANCE} or differing
    return tuple(sorted(shown))


def must_agree(option: str) -> bool:
    """Whether settings that differ in this option (by dotted name) cannot be compared."""
    return option.startswith(FAIR) and option != "trainer.lr"


def varying(settings: Iterable[Setting]) -> set[str]:
    """Names of the options that are not the same in all of ``settings``."""
    runs = [setting.runs[0] for setting in settings]
    found = vary([facts.provenance(run) for run in runs])
    for part in dict.fromkeys(name for run in runs for name in run.config if name not in NOT_DECISIVE):
        values = [run.config.get(part) for run in runs]
        # Taken apart once for all that have the same text: in a large sweep thousands have.
        distinct = dict(zip(texts(values), values, strict=True)).values()
        found |= vary([flatten({part: value}) for value in distinct])
    return found
