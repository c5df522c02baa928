"""Configurations as options by dotted name, and which of them vary."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from peftbench.config import UNHASHED

T = TypeVar("T")
NOT_DECISIVE = ("seed", *UNHASHED)
"""Parts of a configuration that do not make two runs different settings."""


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping by dotted name; lists become JSON text."""
    if isinstance(value, dict) and value:
        parts = (flatten(inner, f"{prefix}.{name}" if prefix else str(name)) for name, inner in value.items())
        return {name: inner for part in parts for name, inner in part.items()}
    return {prefix: json_text(value) if isinstance(value, list | dict) else value}


def texts(values: Sequence[Any]) -> list[str]:
    """JSON text of each value, keys sorted, made once for each object: many records hold the same."""
    ids = list(map(id, values))
    known = {identity: json_text(value) for identity, value in dict(zip(ids, values, strict=True)).items()}
    return [known[identity] for identity in ids]


def json_text(value: Any) -> str:
    """JSON with sorted keys; what JSON does not know is a string."""
    return json.dumps(value, sort_keys=True, default=str)


def vary(mappings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names whose values are not the same in all of ``mappings`` (absent is None; 1, 1.0 and True are not the same)."""
    if not mappings:
        return set()

    def differs(name: str) -> bool:
        first = mappings[0].get(name)
        values = (mapping.get(name) for mapping in mappings)
        return any(value != first or type(value) is not type(first) for value in values)

    return {name for name in dict.fromkeys(name for mapping in mappings for name in mapping) if differs(name)}


def grouped(items: Iterable[T], by: Callable[[T], Hashable]) -> dict[Any, list[T]]:
    """Items by key, in order."""
    groups: dict[Any, list[T]] = defaultdict(list)
    for item in items:
        groups[by(item)].append(item)
    return dict(groups)


def last_part(option: str) -> str:
    """An option without the part of the configuration that it belongs to: lr of trainer.lr."""
    return option.rpartition(".")[2]
