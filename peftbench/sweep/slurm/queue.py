"""What Slurm says of our jobs: ``squeue`` of those that are in the queue, ``sacct`` of how the others ended."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from peftbench.errors import UserError
from peftbench.record import Status
from peftbench.sweep.slurm.ticket import Ticket

SECONDS = 60
"""How long a command of Slurm may take."""
Key = tuple[str, int]
"""Name and index of a job."""
_UNFINISHED = ("PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "COMPLETING")


@dataclass(frozen=True)
class Seen:
    """A job in the queue."""

    job: str
    """``123_4``."""
    state: str
    where: str
    """Its node, or in brackets why it waits."""


@dataclass(frozen=True)
class Ending:
    """How a job ended."""

    job: str
    state: str
    code: int = 0
    signal: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it tells why no record is there: what has FAILED has a code or a signal, which may come later."""
        return self.state != "COMPLETED" and (self.state != "FAILED" or bool(self.code or self.signal))

    def verdict(self, minutes: int) -> tuple[Status, str]:
        """Status and reason of a run whose job ended like this before it could leave its record.

        Args:
            minutes: how long the job was allowed to take.
        """
        said = f"Slurm job {self.job}"
        match self.state:
            case "OUT_OF_MEMORY":
                return "oom", f"{said} was ended for using more than hydra.launcher.memory"
            case "TIMEOUT" | "DEADLINE":
                return (
                    "killed",
                    f"{said} took longer than hydra.launcher.time={minutes} min and was ended",
                )
            case "CANCELLED":
                return "killed", f"{said} was cancelled (scancel)"
            case "PREEMPTED":
                return "killed", f"{said} was preempted and not started again"
            case "NODE_FAIL" | "BOOT_FAIL":
                return "killed", f"the node of {said} failed ({self.state})"
            case "FAILED" if self.signal:
                return "killed", f"{said} was ended by signal {self.signal}"
            case "FAILED":
                return "failed", f"{said} ended with exit code {self.code} and left no record"
            case "COMPLETED":
                return "failed", f"{said} ended without an error and left no record"
        return "killed", f"{said} ended: {self.state}"


class Queue:
    """Asks at most once in ``poll`` seconds."""

    def __init__(self, poll: float) -> None:
        self._poll = poll
        self._asked: tuple[float, frozenset[str], Mapping[Key, Seen]] = (float("-inf"), frozenset(), {})
        self._ends: dict[str, tuple[float, list[tuple[Collection[int], Ending]]]] = {}
        self._said = ""

    def alive(self, names: Collection[str], *, fresh: bool = False) -> Mapping[Key, Seen] | None:
        """The jobs with these names that are waiting, running or being cleared away; None: Slurm does not answer.

        Raises:
            UserError: there is no Slurm here.
        """
        wanted = frozenset(names)
        if not wanted:
            return {}
        when, held, found = self._asked
        if not fresh and wanted <= held and time.monotonic() - when < self._poll:
            return found
        text = self._ask(
            "squeue", "--noheader", "--array", f"--name={','.join(sorted(wanted))}", "--format=%i|%j|%T|%K|%R"
        )
        if text is None:
            return None
        seen = {}
        for job, name, state, index, where in (line.split("|", 4) for line in text.splitlines()):
            seen[name, int(index) if index.isdigit() else 0] = Seen(job, state, where)
        self._asked = (time.monotonic(), wanted, seen)
        return seen

    def answer(self, names: Collection[str]) -> Mapping[Key, Seen]:
        """`alive`, where it has to be known.

        Raises:
            UserError: there is no Slurm here, or it does not answer.
        """
        if (found := self.alive(names)) is None:
            raise UserError(f"Slurm does not answer, and jobs that were sent may be at work ({self._said}): try later")
        return found

    def ending(self, ticket: Ticket) -> Ending | None:
        """How a job ended that is no longer in the queue; None: that is not known yet.

        Accounting (slurmdbd) hears of it a moment later than the queue.
        """
        ends = self._endings(ticket)
        # A range of tasks that were cancelled before they began may still name some that had a line of their own.
        single = [end for indices, end in ends if list(indices) == [ticket.index]]
        several = [end for indices, end in ends if ticket.index in indices]
        end = next(iter([*single, *several]), None)
        return None if end is None or end.state in _UNFINISHED else end

    def _endings(self, ticket: Ticket) -> list[tuple[Collection[int], Ending]]:
        """Of all tasks of this name; one question does for many that are cancelled together."""
        when, held = self._ends.get(ticket.name, (float("-inf"), []))
        if time.monotonic() - when < self._poll:
            return held
        day = (datetime.fromisoformat(ticket.sent) - timedelta(days=1)).strftime("%Y-%m-%d")
        what = ["--format=JobID,State,ExitCode", "--allocations", "--noheader", "--parsable2"]
        text = self._ask("sacct", f"--name={ticket.name}", f"--starttime={day}", *what)
        found = list(endings(text or ""))
        self._ends[ticket.name] = (time.monotonic(), found)
        return found

    def cancel(self, names: Collection[str]) -> None:
        """Have the jobs with these names ended."""
        for name in sorted(names):
            self._ask("scancel", f"--name={name}")

    def _ask(self, *command: str) -> str | None:
        if (program := shutil.which(command[0])) is None:
            raise UserError(
                f"points of this sweep were sent to Slurm, and there is no {command[0]} here to ask about them: go on "
                "on the cluster, or, if none of those jobs is left, remove the folder .slurm beside the records"
            )
        try:
            done = subprocess.run(
                [program, *command[1:]],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
                start_new_session=True,  # Ctrl-C on the terminal is for the engine
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self._said = str(error)
            return None
        self._said = " ".join(done.stderr.split())
        return done.stdout if done.returncode == 0 else None


def endings(text: str) -> Iterator[tuple[Collection[int], Ending]]:
    """The lines of ``sacct --format=JobID,State,ExitCode --parsable2``: indices of the tasks, and how they ended."""
    for line in text.splitlines():
        job, state, code = line.split("|")
        exit_code, _, number = code.partition(":")
        yield _indices(job), Ending(job, state.split()[0], int(exit_code or 0), int(number or 0))


def _indices(job: str) -> Collection[int]:
    """``123_4`` is task 4, ``123_[0,2-5%2]`` tasks 0, 2, 3, 4 and 5, ``123`` (no array) number 0."""
    tasks = job.partition("_")[2]
    if not tasks:
        return [0]
    found: list[int] = []
    for part in re.sub(r"%\d+", "", tasks.strip("[]")).split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found
