"""Files: those that are there for a moment only, those that are there at once or not at all, and who may read them."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from peftbench.errors import UserError

SCRATCH = ".scratch-"


def cache_folder() -> Path:
    """What need not be found out twice is kept in ``$PEFTBENCH_CACHE``, or ``~/.cache/peftbench``.

    Who has no home (``docker run --user``) has a folder beside the temporary files instead.

    Raises:
        UserError: the variable names a home that there is not, or somebody else has a say in that folder.
    """
    if named := os.environ.get("PEFTBENCH_CACHE"):
        return expanded(named, "PEFTBENCH_CACHE")
    try:
        return Path("~/.cache/peftbench").expanduser()
    except RuntimeError:
        return _own_folder()


def expanded(path: str, option: str) -> Path:
    """A path that somebody has written for ``option``, with the home that its ``~`` stands for.

    Raises:
        UserError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{option}={path}: there is no home that ~ stands for; write the whole path") from error


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"peftbench-{os.getuid()}"
    with suppress(OSError):  # whoever writes to it will say so
        folder.mkdir(mode=0o700)
    with suppress(FileNotFoundError):
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise UserError(f"{folder} is no folder of yours alone, and you have no home: write PEFTBENCH_CACHE=DIR")
    return folder


def scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for a moment, on the disk that has room for what is to stay: the one for temporary files may be small.

    A network disk keeps a removed file's name for as long as it is mapped, which is no reason to lose what was done.
    """
    return tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH, ignore_cleanup_errors=True)


def clear_scratch(folder: Path) -> None:
    """Remove what a killed process has left of `scratch`."""
    for left in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to; what was written takes the place of ``path`` in one step, for whom the umask says.

    Its name is one that no other process chooses, also on another machine that shares the disk.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        share(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def new_mode() -> int:
    """The mode that the umask gives a new file; temporary files, and those of safetensors, are their owner's only."""
    os.umask(mask := os.umask(0o077))
    return 0o666 & ~mask


def share(path: Path) -> None:
    """Let whom the umask says read a file, or all files below a folder, as far as the disk allows."""
    mode = new_mode()
    for file in (path, *path.rglob("*")):
        if file.is_file() and not file.is_symlink() and (old := file.stat().st_mode & 0o777) | mode != old:
            with suppress(OSError):  # of others, or on a disk that has no modes
                file.chmod(old | mode)
