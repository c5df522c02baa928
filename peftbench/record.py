"""The record: what one run leaves behind, and the only thing that tables, reports and searches read."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from peftbench.files import new_mode

SCHEMA_VERSION = 1
Status = Literal["ok", "skipped", "pruned", "oom", "failed", "killed"]
STATUSES = get_args(Status)
TEXTS = ("memory/source",)
"""Metrics that are words."""
FILE = "record.json"
CONFIG, PREDICTIONS, ADAPTER = "config.yaml", "predictions.parquet", "adapter"
"""What a run leaves beside it."""
FINE: tuple[Status, ...] = ("ok", "skipped", "pruned")
"""Of runs that ended as they should."""
IN_PROCESS = "in_process"
"""In ``environment``: the run had no process of its own."""
SOURCES = "sources"
"""In the environment: what tells the files that the run read from others, by their paths on this machine."""
INTERRUPTED = "interrupted"
"""How the reason of a run begins that was ended together with its engine: it is run again without being asked."""


@dataclass
class Record:
    """One run. ``metrics`` holds the glossary's names; a figure that was not measured is absent, never estimated."""

    run_id: str
    sweep: str
    status: Status
    config: dict[str, Any]
    config_hash: str
    axes: dict[str, Any]
    reason: str | None = None
    """Why the status is not ``ok``, in one line."""
    traceback: str | None = None
    log_tail: str | None = None
    """The end of the log of a run that did not finish."""
    metrics: dict[str, float | int | str | None] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    """Of figures that were measured several times in the run: (largest - smallest) / mean of the repetitions."""
    history: list[dict[str, float | int]] = field(default_factory=list)
    """Validation reports: step, validation/..., and train loss since the last one."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Device, precision, library versions, git commit and dirty flag, threads."""
    data: dict[str, Any] = field(default_factory=dict)
    """Dataset fingerprint, split names and sizes, label names, notes."""
    base: dict[str, Any] = field(default_factory=dict)
    """Base-model identity and revision; ``random_weights`` if it has not been pretrained."""
    selection: dict[str, Any] = field(default_factory=dict)
    """Which checkpoint was evaluated and by which rule."""
    decisions: dict[str, Any] = field(default_factory=dict)
    """What a method or a sparsity decided from the training data (how a calibration divided a target, say)."""
    started: str = ""
    ended: str = ""
    """UTC, ISO 8601."""
    schema_version: int = SCHEMA_VERSION

    @property
    def setting(self) -> tuple[tuple[str, Any], ...]:
        """The axes without the seed: runs of one setting differ by seed only."""
        return tuple((key, value) for key, value in self.axes.items() if key != "seed")

    @property
    def interrupted(self) -> bool:
        """Whether the run was ended with its engine, so that nothing is known about it yet."""
        return self.status == "killed" and (self.reason or "").startswith(INTERRUPTED)

    def sound(self) -> bool:
        """Whether every field is of its type, as far as tables rely on it, and this version knows what they mean."""
        texts = (self.run_id, self.sweep, self.config_hash, self.started, self.ended)
        mappings = (self.config, self.axes, self.metrics, self.spread, self.environment, self.data, self.base)
        return (
            self.schema_version == SCHEMA_VERSION
            and self.status in STATUSES
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(text, str | None) for text in (self.reason, self.traceback))
            and all(isinstance(mapping, dict) for mapping in (*mappings, self.selection, self.decisions))
            and isinstance(self.history, list)
            and all(isinstance(report, dict) for report in self.history)
            and all(isinstance(value, int | float | None) for report in self.history for value in report.values())
            and all(isinstance(self.axes.get(name), int | None) for name in ("seed", "rank"))
            and isinstance(self.axes.get("ratio"), int | float | None)
            and all(map(_figure, self.metrics.items()))
            and all(isinstance(value, int | float | None) for value in self.spread.values())
        )

    def write(self, folder: Path) -> None:
        """Write ``folder/record.json`` atomically: a reader sees the old record, none, or this one whole.

        JSON has no word for a figure that is infinite or not a number (a perplexity of e^1000): it is null there.
        """
        text = json.dumps(_finite(asdict(self)), indent=1, allow_nan=False, default=str)
        write_atomically(folder / FILE, f"{text}\n")


def _finite(value: Any) -> Any:
    """``value`` with None for every number in it that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figure(item: tuple[str, Any]) -> bool:
    """Whether a metric is what it must be: a number or nothing, but for where the memory figures are from."""
    name, value = item
    return value is None or type(value) in (int, float) or (name in TEXTS and isinstance(value, str))


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace ``path`` by ``text`` in one step; if ``durable``, the text is on disk before the name is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.fchmod(file.fileno(), _mode(path))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """What the file had, or what a new one gets: temporary files are readable by their owner only."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return new_mode()


def read(folder: Path | str) -> Record | None:
    """The record in ``folder``, or None if there is none that can be read."""
    try:
        with open(os.path.join(folder, FILE), "rb") as file:
            record = Record(**orjson.loads(file.read()))
    except (OSError, ValueError, TypeError):
        return None
    return record if record.sound() else None


def read_sweep(folder: Path) -> Iterator[Record]:
    """All records under ``outputs/<sweep>``, in order of their folder names."""
    for name in run_folders(folder):
        if (record := read(os.path.join(folder, name))) is not None:
            yield record


def run_folders(folder: Path) -> list[str]:
    """Names of the folders in a sweep folder (hidden ones are nobody's run), sorted."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
