"""Runs in fresh processes, of a fork server that holds the heavy imports."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from peftbench.interpreter import importing_alike
from peftbench.sweep import server
from peftbench.sweep.child import EXECUTE, Job, Judge, OnProgress, main
from peftbench.sweep.claim import Claim
from peftbench.sweep.interrupts import Interrupts
from peftbench.sweep.orphans import sign
from peftbench.sweep.outcome import Exit
from peftbench.sweep.process import Launcher, Process

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

PRELOAD = "peftbench.sweep.preload"
JOIN_SECONDS = 10.0
NOT_TOLD = 255
"""What multiprocessing says where the server has ended without having told how a run ended; a run may say it too."""


class ForkServer(Launcher):
    """A fresh process a run: clean memory figures, and a crash stays inside."""

    def __init__(self, execute: str = EXECUTE, preload: str = PRELOAD) -> None:
        super().__init__(execute)
        self._context = get_context("forkserver")
        # The server imports torch and friends once; it must never touch CUDA, or no child could.
        self._context.set_forkserver_preload([preload])

    def warm(self, interrupts: Interrupts) -> None:
        """See `Launcher.warm`: the server's imports take seconds, in which Ctrl-C is heard.

        Raises:
            UserError: no server or no first run can be started, or a server cannot import what runs need.
        """
        sign()
        with interrupts.allowed():
            server.insist(self._first_child)

    def start(self, job: Job, claim: Claim, on_progress: OnProgress, judge: Judge | None = None) -> Process:
        """See `Launcher.start`.

        Raises:
            UserError: as `warm`, where the server had to be replaced or a limit has been reached since.
        """
        return server.insist(lambda: self._start(job, claim, on_progress, judge))

    def _first_child(self) -> None:
        process = self._context.Process(target=_nothing)
        _begin(process)
        process.join()

    def _start(self, job: Job, claim: Claim, on_progress: OnProgress, judge: Judge | None) -> Process:
        reader, writer = self._context.Pipe(duplex=judge is not None)
        process = self._context.Process(target=main, args=(job, writer, _Shared(claim.descriptor)), daemon=False)
        try:
            _begin(process)
        except BaseException:
            reader.close()
            raise
        finally:
            writer.close()
        return _Forked(process, reader, on_progress, judge)


def _begin(process: ForkServerProcess) -> None:
    """Start it without the script that was started: a child would run that again, whatever a user's does unguarded."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        server.wake(server.current())
        with importing_alike():  # it may start a server
            process.start()
    finally:
        sys.modules["__main__"] = main


def _nothing() -> None:
    """A first child: when it has ended, the server has imported everything."""


@dataclass(frozen=True)
class _Shared:
    """A descriptor on its way to a child; there `detach` gives the child's own number of it."""

    descriptor: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _handed, (DupFd(self.descriptor),)


def _handed(descriptor: Any) -> Any:
    return descriptor


class _Forked(Process):
    def __init__(
        self, process: ForkServerProcess, reader: Connection, on_progress: OnProgress, judge: Judge | None
    ) -> None:
        self._process = process
        assert process.pid is not None
        self._pid = process.pid
        self._server = server.current()
        self._judge = judge
        self._reader: Connection | None = reader
        self._on_progress = on_progress
        self._timed_out = False
        self._note: str | None = None
        self._oom_before = _oom_kills()

    def sources(self) -> Sequence[Any]:
        """See `Process.sources`."""
        return [self._process.sentinel, *([self._reader] if self._reader is not None else [])]

    def exit(self) -> Exit | None:
        """Pass on what it has reported meanwhile; see `Process.exit`."""
        ended = bool(wait([self._process.sentinel], 0))
        self._pass_on()
        if not ended:
            server.wake(self._server)
            return None
        self._process.join()
        self._end_group()  # what the run has started and left behind
        self._close()
        code = self._process.exitcode
        end = server.end_of(self._server) if code == NOT_TOLD else None
        lost = code == NOT_TOLD and (end is not None or server.current() != self._server)
        killed = _oom_kills() > self._oom_before
        return Exit(code, _signal_name(code), self._timed_out, killed, self._note, lost, server.has_failed(end))

    def kill(self, *, timed_out: bool = False) -> None:
        """See `Process.kill`."""
        self._timed_out = timed_out
        server.wake(self._server)
        self._end_group()
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.join(JOIN_SECONDS)

    def _pass_on(self) -> None:
        while self._reader is not None and self._reader.poll():
            try:
                told = self._reader.recv()
            except (EOFError, OSError):
                self._close()
                return
            if isinstance(told, str):
                self._note = told
            elif len(told) == 2 and self._judge is not None:
                verdict = self._judge(*told)
                with suppress(OSError):  # it did not live to hear it
                    self._reader.send(verdict)
            else:
                self._on_progress(*told)

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _end_group(self) -> None:
        # It leads a group of its own.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)


def _signal_name(code: int | None) -> str | None:
    """The signal in a negative exit code."""
    if code is None or code >= 0:
        return None
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


def _oom_kills() -> int:
    """How often the kernel has killed a process for memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
