"""Processes of an engine that is gone: they end with it, and what does not is found and ended by the next engine.

Everything an engine starts carries its name in the environment (as it was when the process began, which is what
``/proc`` shows), so that nothing else can be taken for a run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

VARIABLE = "PEFTBENCH_ENGINE"
WAIT_SECONDS = 10.0
_PARENT_DEATH_SIGNAL = 1
_IMPORTED_BY = os.getpid()


def sign() -> None:
    """Mark all processes that this one starts from now on."""
    os.environ[VARIABLE] = f"{os.getpid()}:{_begun(os.getpid())}:{_namespace()}"


def end_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when the one that started it has ended."""
    with suppress(OSError, AttributeError):
        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PARENT_DEATH_SIGNAL, by)
    # Forked from the server that imported this, which may have been killed before the kernel was told.
    if _IMPORTED_BY not in (os.getpid(), os.getppid()):
        os._exit(1)


def end_orphans() -> int:
    """End what engines that are gone have left behind on this machine; returns how many processes that were."""
    found = list(_orphans())
    for pid, _ in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + WAIT_SECONDS
    while any(_begun(pid) == begun for pid, begun in found) and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(found)


def _orphans() -> Iterator[tuple[int, str]]:
    """Process id and start time of each."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or it is somebody else's
        marks = [entry.decode() for entry in environment if entry.startswith(f"{VARIABLE}=".encode())]
        if not marks:
            continue
        engine, began, namespace = [*marks[-1].partition("=")[2].split(":", 2), "", ""][:3]
        # In another namespace (a container) the same number is another process, so nothing can be said about it.
        if namespace == _namespace() and engine.isdigit() and _begun(int(engine)) != began:
            pid = int(folder.name)
            if (begun := _begun(pid)) and pid != os.getpid():
                yield pid, begun


def _begun(pid: int) -> str:
    """When a process began, in clock ticks since the machine did; empty if it has ended."""
    try:
        # The name in the second field may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
