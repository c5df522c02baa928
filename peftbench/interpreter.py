"""Other Python processes that this one starts: they import from where it does.

``-c`` and ``-m`` put the current folder before everything, and a command such as ``peftbench`` does not. In another
checkout, or beside somebody's ``random.py``, runs would then be of other code than what composed and records them.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "PYTHONSAFEPATH"
MARK = "peftbench"
"""Its value where we have set it: any one that is not empty has the same effect."""


def python() -> list[str]:
    """The words of a command before ``-c`` or ``-m``."""
    return [sys.executable, *([] if _has_current_folder() else ["-P"])]


@contextmanager
def importing_alike() -> Iterator[None]:
    """The same for what multiprocessing starts meanwhile, which takes no options from us."""
    if os.environ.get(VARIABLE) or _has_current_folder():
        yield
        return
    os.environ[VARIABLE] = MARK
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)


def forget() -> None:
    """In a process that was started so: what it starts in its turn is its own affair."""
    if os.environ.get(VARIABLE) == MARK:
        del os.environ[VARIABLE]


def _has_current_folder() -> bool:
    """Whether this process imports from the current folder first, as it does in ``python -m peftbench``.

    A project that is installed to be edited stands behind the standard library; ``-c`` and ``-m`` put it before.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # somebody has removed it
        return False
    first = itertools.takewhile(lambda folder: folder != os.path.dirname(os.__file__), sys.path)
    return any(os.path.realpath(folder) == here for folder in first)
