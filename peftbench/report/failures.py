"""Runs that did not finish, those with the same reason together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peftbench.record import Record
from peftbench.report import facts


@dataclass(frozen=True)
class Failed:
    """All runs that ended in the same way for the same reason."""

    status: str
    reason: str
    runs: tuple[Record, ...]


def failed(records: Iterable[Record]) -> list[Failed]:
    """One entry for each status and reason, in the order of the first run of each."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.status != "ok":
            groups.setdefault((record.status, facts.reason(record)), []).append(record)
    return [Failed(status, reason, tuple(runs)) for (status, reason), runs in groups.items()]
