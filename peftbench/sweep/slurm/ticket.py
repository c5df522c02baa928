"""Which job has a point: a small file beside the records, so that the next engine finds what the last one has sent.

A ticket is written before the job is sent, and a job that starts with another ticket than the one there goes home. So
it does not matter at which moment an engine is killed: at most one job works at a point, and that one is waited for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.record import read, write_atomically
from peftbench.sweep.claim import Claim
from peftbench.sweep.outcome import is_own, writing

if TYPE_CHECKING:
    from peftbench.sweep.grid import Point

FOLDER = ".slurm"
JOB = ".job"
"""Suffix of the claim that a job holds while it works; the claim without it is the engine's."""
_TICKET = ".ticket"
_REPORTS = ".reports"
_VERDICT = ".verdict"


@dataclass(frozen=True)
class Ticket:
    """A task of a job array."""

    name: str
    """Name of the job, which no other one has: Slurm is asked by it, so that no job number can get lost."""
    index: int
    """Number of the task in its array; a job that is no array is number 0."""
    sent: str
    """UTC, ISO 8601."""

    @classmethod
    def read(cls, point: Point) -> Ticket | None:
        """The ticket of a point, if it has one."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(path(point, _TICKET).read_text(encoding="utf-8")))
        return None


def path(point: Point, suffix: str) -> Path:
    """Where we keep something about a point."""
    return point.folder.parent / FOLDER / f"{point.run.run_id}{suffix}"


def batch(point: Point, ticket: Ticket) -> Path:
    """The folder of what has been sent together: submitit's pickles, the script and Slurm's own logs."""
    return point.folder.parent / FOLDER / ticket.name


def hand_over(point: Point, ticket: Ticket | None) -> bool:
    """Replace the ticket of a point (None: by none), unless a job is at work at it; returns whether it was replaced.

    Raises:
        UserError: it cannot be written.
    """
    claim = Claim.take(point, JOB)
    if claim is None:
        return False
    try:
        with writing(path(point, _TICKET)):
            if ticket is None:
                drop(point)
            else:
                for suffix in (_REPORTS, _VERDICT):
                    path(point, suffix).unlink(missing_ok=True)
                write_atomically(path(point, _TICKET), json.dumps(asdict(ticket)))
    finally:
        claim.release()
    return True


def drop(point: Point) -> None:
    """Remove what we keep about a point."""
    _remove(path(point, _TICKET))


def _remove(ticket: Path) -> None:
    for suffix in (_TICKET, _REPORTS, _VERDICT):
        ticket.with_name(ticket.name.removesuffix(_TICKET) + suffix).unlink(missing_ok=True)


def settle(sweep: Path) -> set[str]:
    """Drop the tickets of points that have a record that stands; returns the names of the jobs that have others."""
    names = set()
    for ticket in (sweep / FOLDER).glob(f"*{_TICKET}"):
        record = read(sweep / ticket.name.removesuffix(_TICKET))
        if record is not None and is_own(record):
            _remove(ticket)
        else:
            with suppress(OSError, ValueError, KeyError, TypeError):
                names.add(json.loads(ticket.read_text(encoding="utf-8"))["name"])
    return names


def batches(sweep: Path) -> list[str]:
    """Names of the jobs of which there is a folder."""
    return sorted(path.name for path in (sweep / FOLDER).glob("*") if path.is_dir())


class Wire:
    """How a job and an engine talk about pruning: the job adds its validations to a file, the engine leaves a verdict.

    Neither waits for the other. A job that is done before its verdict comes has not been pruned, and an engine that
    comes later reads all there is.
    """

    def __init__(self, point: Point) -> None:
        self._reports = path(point, _REPORTS)
        self._verdict = path(point, _VERDICT)
        self._read = 0

    def judge(self, index: int, figures: dict[str, float]) -> str | None:
        """In the job: report the ``index``-th validation; why the run should end, if somebody has said so."""
        with self._reports.open("a", encoding="utf-8") as file:
            file.write(json.dumps([index, figures]) + "\n")
        with suppress(OSError):
            return self._verdict.read_text(encoding="utf-8")
        return None

    def news(self) -> Iterator[tuple[int, dict[str, float]]]:
        """In the engine: the validations that it has not seen yet."""
        try:
            lines = self._reports.read_text(encoding="utf-8").splitlines(keepends=True)
        except OSError:
            return
        if len(lines) < self._read:
            self._read = 0  # the job was started again
        for line in lines[self._read :]:
            if not line.endswith("\n"):
                return
            self._read += 1
            index, figures = json.loads(line)
            yield index, figures

    def end(self, reason: str) -> None:
        """In the engine: have the run end at its next validation."""
        write_atomically(self._verdict, reason)

    def clear(self) -> None:
        """In the job: what an earlier start of it has reported is of a run that was lost."""
        for path in (self._reports, self._verdict):
            path.unlink(missing_ok=True)
