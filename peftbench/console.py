"""What is printed, on a terminal that has not all letters, and where nobody reads any more."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class Unbreakable(io.TextIOWrapper):
    """A stream that is let go when its reader has gone (``| head``) or its disk is full: what is done is not undone.

    Records are what counts, and a sweep does not end because nobody reads along.
    """

    gone = False

    def write(self, text: str) -> int:
        """See `io.TextIOWrapper.write`."""
        try:
            return super().write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """See `io.TextIOWrapper.flush`."""
        try:
            super().flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        if self.gone:
            return
        self.gone = True
        # What is still in the buffer goes the same way, now and when Python ends.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())
        os.close(nothing)
        if self.name != 2:
            print(f"peftbench: nobody reads the output any more ({error.strerror}); going on", file=sys.stderr)


def print_anything() -> None:
    """From here on, printing is no error: not what the encoding lacks (``≈``, a letter of a name: shown as ``?``), and
    not that a stream is closed or its reader gone."""
    sys.stdout = _unbreakable(sys.stdout, 1)
    sys.stderr = _unbreakable(sys.stderr, 2)


def _unbreakable(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:  # closed before we began, as under some schedulers
        return open(os.devnull, "w")
    if type(stream) is not io.TextIOWrapper:
        return stream
    stream.reconfigure(errors="replace")
    if not _is(stream, number):
        return stream
    stream.flush()
    raw = open(number, "wb", closefd=False)  # noqa: SIM115  # for as long as the process prints
    return Unbreakable(raw, stream.encoding, "replace", line_buffering=stream.isatty())


def _is(stream: TextIO, number: int) -> bool:
    """Whether it is the system's stream of this number, and not one that somebody has put in its place."""
    try:
        return stream.fileno() == number
    except OSError:
        return False
