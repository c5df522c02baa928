"""Ctrl-C, SIGTERM and a closed terminal, let through only where nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Within the ``with`` block these signals raise KeyboardInterrupt inside `allowed` only, where we mostly are.

    A second one is not kept waiting: it is raised wherever we are.
    """

    def __init__(self) -> None:
        self._pending = False
        self._open = False
        self._ignored = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            held = {number: signal.getsignal(number) for number in SIGNALS}
            # Ignored by who started us (nohup, a job in the background): so do we.
            self._before = {number: handler for number, handler in held.items() if handler != signal.SIG_IGN}
            for number in self._before:
                signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Here they are raised.

        Raises:
            KeyboardInterrupt: also at once, if one came before.
        """
        self._open = True
        try:
            if self._pending:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False

    def ignore(self) -> None:
        """From here on they do nothing: we are already ending."""
        self._ignored = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._ignored:
            return
        if self._open or self._pending:
            raise KeyboardInterrupt
        self._pending = True
