"""What is printed, on a terminal that has not all letters."""

from __future__ import annotations

import io
import sys


def print_anything() -> None:
    """From here on, what the encoding lacks (``≈``, a letter of a name) is shown as ``?`` and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
