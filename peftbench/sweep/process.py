"""Where a run happens: a fresh process from a fork server that holds the heavy imports, or this process."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

    from peftbench.sweep.grid import Point

OnProgress = Callable[[str, int, int], None]
"""Called with (phase, steps done, steps in all)."""
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    code: int | None = 0
    signal: str | None = None
    timed_out: bool = False


class Worker(ABC):
    """Carries out one point at a time."""

    @abstractmethod
    def run(self, point: Point, log: Path, timeout: float | None, on_progress: OnProgress) -> Exit:
        """Carry out ``point``; its output goes to ``log``."""

    @staticmethod
    @contextmanager
    def pool(in_process: bool) -> Iterator[Worker]:
        """The kind of worker that was asked for."""
        yield InProcess() if in_process else ForkServer()


class InProcess(Worker):
    """Runs in the present process, for debuggers: output stays on the terminal and nothing is isolated."""

    def run(self, point: Point, log: Path, timeout: float | None, on_progress: OnProgress) -> Exit:
        """See `Worker.run`; the timeout cannot be kept in one process and is an error at composition."""
        from peftbench.sweep.child import carry_out

        carry_out(point, on_progress)
        return Exit()


class ForkServer(Worker):
    """A fresh process a point: clean memory figures, and a crash stays inside."""

    def __init__(self) -> None:
        self._context = get_context("forkserver")
        # The server imports torch and friends once; it must never touch CUDA, or no child could.
        self._context.set_forkserver_preload(["peftbench.sweep.preload"])

    def run(self, point: Point, log: Path, timeout: float | None, on_progress: OnProgress) -> Exit:
        """See `Worker.run`."""
        from peftbench.sweep.child import main

        reader, writer = self._context.Pipe(duplex=False)
        process = self._context.Process(target=main, args=(point, str(log), writer), daemon=False)
        process.start()
        writer.close()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            timed_out = _watch(process, reader, deadline, on_progress)
        finally:
            if process.is_alive():
                _end(process)
            process.join()
        code = process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else None
        return Exit(code, name, timed_out)


def _watch(process: ForkServerProcess, reader: Connection, deadline: float | None, on_progress: OnProgress) -> bool:
    """Pass progress on until the process ends; True if the deadline came first."""
    told = True
    while process.is_alive():
        if deadline is not None and time.monotonic() > deadline:
            return True
        told = told and _pass_on(reader, on_progress)
        if not told:
            process.join(POLL_SECONDS)
    return False


def _pass_on(reader: Connection, on_progress: OnProgress) -> bool:
    """Wait a moment for one report; False once the other side has closed."""
    try:
        if reader.poll(POLL_SECONDS):
            on_progress(*reader.recv())
    except EOFError:
        return False
    return True


def _end(process: ForkServerProcess) -> None:
    """End the process and whatever it started: it leads a group of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    with suppress(ProcessLookupError):
        process.kill()


def lead_own_group() -> None:
    """In the child: apart from the terminal's Ctrl-C (the engine decides), and gone when the fork server is gone."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):
        import ctypes

        set_parent_death_signal = 1
        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.prctl(set_parent_death_signal, signal.SIGKILL)
