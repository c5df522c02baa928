"""Runs that did not finish, those with the same reason together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.record import Record
from peftbench.report import facts

if TYPE_CHECKING:
    from peftbench.report.sweep import Sweep


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


def unfinished(sweep: Sweep) -> list[str]:
    """One line for each way that runs ended before their time, and one for each folder without a record."""
    return [*map(_line, failed(sweep.records)), *(f"{'no record':8} {name}" for name in sweep.unreadable)]


def _line(one: Failed) -> str:
    more = f" and {len(one.runs) - 1:,} more" if len(one.runs) > 1 else ""
    return f"{one.status:8}{one.runs[0].run_id}{more}: {one.reason}"
