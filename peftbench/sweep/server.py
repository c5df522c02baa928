"""The fork server of this process: multiprocessing has one at a time, and starts another when that has ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from typing import Any, TypeVar

from peftbench.errors import UserError

END_SECONDS = 1.0
"""How long a server takes to end after it has closed its connections."""
PAUSES = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between the tries to start a run: before the last one all the time that a dying server may take."""
T = TypeVar("T")
_ENDS: dict[int, os.waitid_result] = {}
"""How servers ended that could not start a run: multiprocessing forgets it when it replaces them."""


def current() -> int | None:
    """Process id of the server that the last run was asked of; None: there is none."""
    held: Any = forkserver._forkserver
    pid: int | None = held._forkserver_pid
    return pid


def end_of(server: int | None) -> os.waitid_result | None:
    """How a server has ended, a moment after its connections have; None if it goes on, or was replaced unseen."""
    deadline = time.monotonic() + END_SECONDS
    while server is not None and server == current():
        end = os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # left for multiprocessing to find
        if end is not None:
            _ENDS[server] = end
            return end
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)
    return None if server is None else _ENDS.get(server)


def has_failed(end: os.waitid_result | None) -> bool:
    """Whether a server has ended by itself: what Python says of it is on the terminal."""
    return end is not None and end.si_code == os.CLD_EXITED and end.si_status != 0


def wake(server: int | None) -> None:
    """Have a server go on that was stopped (``kill -STOP``; Ctrl-Z, and then ``kill -CONT`` of the engine alone).

    Without it no run starts, and nobody hears that one has ended. A server that is only slow does not mind, and a run
    that somebody has stopped stays so.
    """
    if server is not None and server == current():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(server, signal.SIGCONT)


def insist(ask: Callable[[], T]) -> T:
    """A server that was killed is found out by asking it, and the next call starts another one.

    That is once it has ended: in between it refuses connections and still counts as running.

    Raises:
        UserError: no process can be started, or those that were started for this cannot import what runs need.
    """
    # At a limit of processes a new one may end too, for as long as the runs of the last one are not gone.
    patience = time.monotonic() + (0.0 if current() is None else sum(PAUSES))
    with _saying_why():
        for pause in PAUSES:
            before = current()
            try:
                return ask()
            except (EOFError, ConnectionError):
                end_of(current())  # seen now: asked again, it is replaced
                if current() != before and time.monotonic() >= patience:
                    _refuse_broken()
            time.sleep(pause)
        return ask()


@contextmanager
def _saying_why() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        if isinstance(error, EOFError | ConnectionError):
            _refuse_broken()
        raise UserError(
            f"no process can be started ({str(error) or type(error).__name__}): raise the limits of this shell "
            "(ulimit -a), and write TMPDIR=/tmp where that is a long path"
        ) from error


def _refuse_broken() -> None:
    """Another server would end like a new one that has ended by itself, after as many seconds of imports.

    Raises:
        UserError: it has; what Python says of it is on the terminal.
    """
    if (end := end_of(current())) is not None and has_failed(end):
        if end.si_status != 1:
            raise UserError(
                f"the process that imports for all runs ended with exit code {end.si_status}: one of its modules ends "
                "Python; look on PYTHONPATH for one that has the name of a package's"
            )
        advice = (
            "write PYTHONOPTIMIZE=1, and python without -OO: not all packages can be imported without docstrings"
            if sys.flags.optimize > 1
            else "mend the installation of the package that it names, or raise the limit (ulimit -a)"
        )
        raise UserError(f"the process that imports for all runs ended with the error above: {advice}")
