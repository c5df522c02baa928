"""Local files that were changed since runs read them: the configuration of those runs is still the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from peftbench.config import RunConfig


def changed(done: Iterable[tuple[RunConfig, datetime]], instead: str) -> list[str]:
    """A line for each data set or network on disk that was written to after runs of it had started.

    Args:
        done: what is done, and when that was started (with its zone).
        instead: what to write to have the runs again.
    """
    written: dict[str, float] = {}
    late: Counter[str] = Counter()
    for run, started in done:
        for path in (getattr(part, "path", None) for part in (run.dataset, run.model)):
            if path is None:
                continue
            if path not in written:
                written[path] = _written(Path(path).expanduser())
            late[path] += written[path] > started.timestamp()
    return [
        f"! {path} was changed after {count} of those that are done had started: {instead}"
        for path, count in late.items()
        if count
    ]


def _written(path: Path) -> float:
    """When a file, or one of those in a folder, was last written to (seconds since 1970); 0 where nobody can tell."""
    try:
        files = [path, *path.iterdir()] if path.is_dir() else [path]
        return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
    except OSError:
        return 0.0
