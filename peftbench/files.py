"""Files that a run leaves: what is there for a moment only, and who may read the rest."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

SCRATCH = ".scratch-"


def scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for a moment, on the disk that has room for what is to stay: the one for temporary files may be small.

    A network disk keeps a removed file's name for as long as it is mapped, which is no reason to lose what was done.
    """
    return tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH, ignore_cleanup_errors=True)


def clear_scratch(folder: Path) -> None:
    """Remove what a killed process has left of `scratch`."""
    for left in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
