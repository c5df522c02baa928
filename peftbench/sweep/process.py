"""Where a run happens: in a process of its own, or in this one."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any

from peftbench.record import IN_PROCESS
from peftbench.sweep.child import EXECUTE, Job, Judge, OnProgress, carry_out, judging
from peftbench.sweep.claim import Claim
from peftbench.sweep.interrupts import Interrupts
from peftbench.sweep.outcome import Exit


class Process(ABC):
    """A run at work."""

    @abstractmethod
    def exit(self) -> Exit | None:
        """How it ended, or None while it has not."""

    def sources(self) -> Sequence[Any]:
        """What becomes readable when there is news."""
        return ()

    def kill(self, *, timed_out: bool = False) -> None:  # noqa: B027  # what has ended needs none
        """End it and whatever it has started, and wait until it is gone."""


class Launcher(ABC):
    """Starts runs.

    ``execute`` is what a run is, as ``module:function``; see `peftbench.run.execute`.
    """

    def __init__(self, execute: str = EXECUTE) -> None:
        self.execute = execute
        self.circumstances: dict[str, Any] = {}
        """What records say of where runs are started."""

    @abstractmethod
    def warm(self, interrupts: Interrupts) -> None:
        """Make ready, so that starting a run takes no time."""

    @abstractmethod
    def start(self, job: Job, claim: Claim, on_progress: OnProgress, judge: Judge | None = None) -> Process:
        """Start one run; ``judge`` decides after each validation whether it goes on."""


class InProcess(Launcher):
    """Runs in the present process, for debuggers: output stays on the terminal and nothing is isolated."""

    def __init__(self) -> None:
        super().__init__()
        self.circumstances = {IN_PROCESS: True}

    def warm(self, interrupts: Interrupts) -> None:
        """See `Launcher.warm`."""
        self._interrupts = interrupts

    def start(self, job: Job, claim: Claim, on_progress: OnProgress, judge: Judge | None = None) -> Process:
        """See `Launcher.start`; it is over when this returns."""
        with self._interrupts.allowed():
            carry_out(job, on_progress if judge is None else judging(judge, on_progress))
        return _Over()


class _Over(Process):
    def exit(self) -> Exit | None:
        """It has ended."""
        return Exit()


def wait_for(processes: Sequence[Process], seconds: float | None) -> None:
    """Wait for news of any of these processes, at most for so long."""
    if sources := [source for process in processes for source in process.sources()]:
        wait(sources, seconds)
    elif not processes and seconds is not None:
        time.sleep(seconds)
