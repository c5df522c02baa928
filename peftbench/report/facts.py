"""What a record says about itself besides its figures: split, device, precision, command, environment.

`Record` leaves the inside of ``data``, ``base`` and ``environment`` open; this file is the only one that knows it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from peftbench.record import IN_PROCESS, Record

PROVENANCE = ("data.fingerprint", "precision", "base.revision", "base.weights_sha256")
UNKNOWN = "unknown"
ENGINES = ("torch", "transformers", "peft", "bitsandbytes")
"""Versions that decide what a step computes and how fast."""
MOST = 4
"""Values of one option that a sentence lists."""


def evaluated(record: Record) -> str | None:
    """What the items of the evaluation split are known by; None in records that do not say."""
    mark = record.data.get("evaluation_fingerprint")
    return None if mark is None else str(mark)[:12]


def evaluation(record: Record) -> tuple[str, int | None]:
    """Name and size of the split that the figures were measured on."""
    split = _part(_part(record.data, "splits"), "evaluation")
    size = split.get("size")
    return str(split.get("name", "evaluation")), size if isinstance(size, int) else None


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
    base = record.base
    values = (record.data.get("fingerprint"), precision(record), base.get("revision"), base.get("weights_sha256"))
    return {name: str(value)[:12] for name, value in zip(PROVENANCE, values, strict=True) if value is not None}


def shared(record: Record) -> dict[str, str]:
    """What methods must have in common for their figures to stand side by side: weights, data, targets, recipe."""
    config = record.config
    trainer, method = _part(config, "trainer"), _part(config, "method")
    found = {f"trainer.{name}": value for name, value in trainer.items() if name not in ("lr", "precision")}
    found |= {f"base.{name}": record.base.get(name) for name in ("id", "targets")}
    found |= {"attention": record.environment.get("attention"), "method.targets": method.get("targets")}
    return {name: str(value) for name, value in (found | provenance(record)).items() if value is not None}


def circumstances(record: Record) -> dict[str, str]:
    """What was around a run: it moves speed and memory, and with other versions or code also the rest."""
    environment = record.environment
    found = {name: environment.get(name) for name in ("threads", "jobs", "git_commit", "git_dirty")}
    found[IN_PROCESS] = environment.get(IN_PROCESS, False)
    if (allocator := environment.get("allocator")) is not None:
        found["allocator"] = " ".join(f"{name}={value}" for name, value in allocator.items()) or "default"
    found |= {name: _part(environment, "versions").get(name) for name in ENGINES}
    return {name: str(value)[:80] for name, value in found.items() if value is not None}


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _memory_source(record: Record) -> dict[str, str]:
    source = record.metrics.get("memory/source")
    return {} if source is None else {"memory/source": str(source)}


def measured_on(record: Record) -> dict[str, Any]:
    """What a row of a table must say for its figures to be compared with another's: data, weights, machine, code."""
    found: dict[str, Any] = {"device": device(record), "precision": precision(record)}
    found["evaluation"] = evaluation(record)[0]
    found |= {f"environment.{name}": value for name, value in circumstances(record).items()}
    found |= {"data.fingerprint": record.data.get("fingerprint"), "base.id": record.base.get("id")}
    return found | {f"base.{name}": record.base.get(name) for name in ("revision", "weights_sha256")}


def unlike(records: Iterable[Record]) -> list[str]:
    """One sentence for each of `shared` that is not the same (or the same grid) for all methods, with who has what,
    and for each of `circumstances` that is not the same in all runs."""
    records = list(records)
    recipes = _holders(records, shared)
    around = _holders(records, lambda record: circumstances(record) | _memory_source(record))
    differing = {name: values for name, values in around.items() if len(values) > 1}
    differing |= {
        name: values for name, values in recipes.items() if len({frozenset(holders) for holders in values.values()}) > 1
    }
    return [f"Not alike in {name}: {_values(values)}" for name, values in differing.items()]


def _holders(records: Sequence[Record], of: Callable[[Record], dict[str, str]]) -> dict[str, dict[str, set[str]]]:
    """For each name and value the methods that have it."""
    found: dict[str, dict[str, set[str]]] = {}
    for record in records:
        method = str(record.axes.get("method"))
        for name, value in of(record).items():
            found.setdefault(name, {}).setdefault(value, set()).add(method)
    return found


def _values(values: dict[str, set[str]]) -> str:
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
