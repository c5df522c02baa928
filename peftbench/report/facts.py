"""What a record says about itself besides its figures: split, device, precision, command, environment.

`Record` leaves the inside of ``data``, ``base`` and ``environment`` open; this file is the only one that knows it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from peftbench.record import Record

PROVENANCE = ("data.fingerprint", "precision", "base.revision")
UNKNOWN = "unknown"
MOST = 4
"""Values of one option that a sentence lists."""


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


def shared(record: Record) -> dict[str, str]:
    """What methods must have in common for their figures to stand side by side: weights, data, targets, recipe."""
    config = record.config
    trainer, method = _part(config, "trainer"), _part(config, "method")
    found = {f"trainer.{name}": value for name, value in trainer.items() if name not in ("lr", "precision")}
    found |= {f"base.{name}": record.base.get(name) for name in ("id", "revision", "targets")}
    found |= {"attention": record.environment.get("attention"), "method.targets": method.get("targets")}
    if (allocator := record.environment.get("allocator")) is not None:
        found["allocator"] = " ".join(f"{name}={value}" for name, value in allocator.items()) or "default"
    found |= {"data.fingerprint": str(record.data.get("fingerprint", ""))[:12] or None, "precision": precision(record)}
    return {name: str(value) for name, value in found.items() if value is not None}


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def unlike(records: Iterable[Record]) -> list[str]:
    """One sentence for each of `shared` that is not the same (or the same grid) for all methods, with who has what."""
    found: dict[str, dict[str, list[str]]] = {}
    for record in records:
        method = str(record.axes.get("method"))
        for name, value in shared(record).items():
            holders = found.setdefault(name, {}).setdefault(value, [])
            if method not in holders:
                holders.append(method)
    return [
        f"Not alike in {name}: {_values(values)}"
        for name, values in found.items()
        if len({frozenset(holders) for holders in values.values()}) > 1
    ]


def _values(values: dict[str, list[str]]) -> str:
    parts = [f"{value} ({', '.join(sorted(holders))})" for value, holders in values.items()]
    return "; ".join([*parts[:MOST], *([f"and {len(parts) - MOST} more values"] if len(parts) > MOST else [])])


def command(record: Record) -> str | None:
    """The command that repeats the run, or None if the record does not know its overrides."""
    overrides = record.environment.get("overrides")
    if not isinstance(overrides, list):
        return None
    # A named sweep is a grid or a search unless it is told to be one run.
    once = ["hydra.mode=RUN"] if "-cn" in overrides else []
    return shlex.join(["peftbench", *map(str, overrides), *once])


def commands(records: Sequence[Record]) -> list[str]:
    """The commands that repeat runs which differ by seed only: one for all of them where their overrides allow it."""
    overrides = [record.environment.get("overrides") for record in records]
    known = [list(map(str, one)) for one in overrides if isinstance(one, list)]
    others = {tuple(text for text in one if not text.startswith("seed=")) for one in known}
    seeds = [text.removeprefix("seed=") for one in known for text in one if text.startswith("seed=")]
    if len(known) == len(records) == len(set(seeds)) > 1 and len(others) == 1:
        return [shlex.join(["peftbench", "-m", *others.pop(), f"seed={','.join(seeds)}"])]
    return list(filter(None, map(command, records)))


def reason(record: Record) -> str:
    """Why a run did not finish, in one line."""
    text = (record.reason or "").strip() or "no reason was recorded"
    return text.splitlines()[0]


def unique(values: list[str]) -> str:
    """The distinct values in order of appearance, as one text."""
    return ", ".join(dict.fromkeys(values))
