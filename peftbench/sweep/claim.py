"""One engine a point: a lock that the kernel drops when everything that works at the point has ended."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.sweep.grid import Point

FOLDER = ".claims"


@dataclass(frozen=True)
class Claim:
    """A point that is ours.

    The run's process holds the same open file: if the engine is killed, nobody else gets the point before its run has
    ended too. There is nothing to go stale, because a file that nobody has open locks nothing.
    """

    path: Path
    descriptor: int

    @classmethod
    def take(cls, point: Point, suffix: str = "") -> Claim | None:
        """Claim a point; None while another engine has it.

        Args:
            suffix: of the file's name, for what else only one may have of a point.

        Raises:
            UserError: the folder cannot be written, or its file system has no locks.
        """
        path = point.folder.parent / FOLDER / f"{point.run.run_id}{suffix}"
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                continue  # another engine has just tidied the folder away
            except OSError as error:
                raise UserError(f"{path} cannot be written ({error.strerror}): write output_dir=FOLDER") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError as error:
                os.close(descriptor)
                raise UserError(f"{path} cannot be locked ({error.strerror}): write output_dir=FOLDER") from error
            if _is_at(path, descriptor):
                return cls(path, descriptor)
            os.close(descriptor)  # it was released, and removed, between our two calls

    def release(self) -> None:
        """Let go of the point, whose run has ended."""
        # Removed while it is still locked: who opens the old file finds that it is no longer there, and opens another.
        with suppress(OSError):
            self.path.unlink()
        os.close(self.descriptor)


def tidy(sweep: Path) -> None:
    """Remove the files of claims that nobody has any more (their engine was killed), and the folder with the last."""
    for path in (sweep / FOLDER).glob("*"):
        with suppress(OSError), path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file.fileno()):
                path.unlink()
    with suppress(OSError):
        (sweep / FOLDER).rmdir()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
