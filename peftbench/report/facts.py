"""What a record says about itself besides its figures: split, device, precision, command, environment.

`Record` leaves the inside of ``data``, ``base`` and ``environment`` open; this file is the only one that knows it.
"""

from __future__ import annotations

import shlex
from typing import Any

from peftbench.record import Record

PROVENANCE = ("data.fingerprint", "precision", "base.revision")
UNKNOWN = "unknown"


def evaluation(record: Record) -> tuple[str, int | None]:
    """Name and size of the split that the figures were measured on."""
    splits = record.data.get("splits")
    split = splits.get("evaluation") if isinstance(splits, dict) else record.data.get("evaluation")
    if isinstance(split, dict):
        size = split.get("size")
        return str(split.get("name", "evaluation")), None if size is None else int(size)
    return str(split or "evaluation"), None


def device(record: Record) -> str:
    """The device by name, e.g. ``cpu`` or ``cuda (NVIDIA H200)``; two equal ones of a machine are one device."""
    environment = record.environment
    kind = str(environment.get("device") or record.config.get("device") or UNKNOWN).partition(":")[0]
    name = environment.get("device_name")
    return f"{kind} ({name})" if name and str(name) != kind else kind


def precision(record: Record) -> str:
    """The precision that was used, not the one that was asked for, where the record tells them apart."""
    trainer = record.config.get("trainer")
    asked = trainer.get("precision") if isinstance(trainer, dict) else None
    return str(record.environment.get("precision") or asked or UNKNOWN)


def provenance(record: Record) -> dict[str, Any]:
    """What separates two runs of one configuration: other data, another precision, another base model."""
    values = (record.data.get("fingerprint"), precision(record), record.base.get("revision"))
    return {name: str(value)[:12] for name, value in zip(PROVENANCE, values, strict=True) if value is not None}


def command(record: Record) -> str | None:
    """The command that repeats the run, or None if the record does not know its overrides."""
    overrides = record.environment.get("overrides")
    if not isinstance(overrides, list):
        return None
    return shlex.join(["peftbench", *map(str, overrides)])


def reason(record: Record) -> str:
    """Why a run did not finish, in one line."""
    text = (record.reason or "").strip() or "no reason was recorded"
    return text.splitlines()[0]


def unique(values: list[str]) -> str:
    """The distinct values in order of appearance, as one text."""
    return ", ".join(dict.fromkeys(values))
