"""What runs read from this machine besides their configuration: data, weights, and code that is not this package's.

The configuration of a run stays the same one when these change, so its record keeps what tells them apart.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from peftbench.component import Component
from peftbench.config import RunConfig
from peftbench.record import Record

SOURCES = "sources"
"""In the environment of a record: `stamps` when the run started."""


def stamps(run: RunConfig) -> dict[str, str]:
    """For each file or folder that ``run`` reads (absolute path), SHA-256 (hex) of what tells it from another.

    That is the text of code, and the names, sizes and times of data and weights, which may be large.
    """
    read = [Path(path).expanduser() for part in (run.dataset, run.model) if (path := getattr(part, "path", None))]
    return {str(path.absolute()): _stamp(path.absolute()) for path in [*read, *_own_code(run)]}


def changed(done: Iterable[Record], instead: str) -> list[str]:
    """A line for each file or folder that is another one now than when runs that are done read it.

    Args:
        instead: what to write to have the runs again.
    """
    now = functools.cache(lambda path: _stamp(Path(path)))
    late = Counter(
        path
        for record in done
        for path, stamp in (record.environment.get(SOURCES) or {}).items()
        if stamp != now(path) and Path(path).exists()
    )
    return [
        f"! {path} was changed since {count} of those that are done read it: {instead}" for path, count in late.items()
    ]


def _own_code(run: RunConfig) -> list[Path]:
    """Files of the classes that somebody has added from outside."""
    names = {type(part).__module__ for _, part in run if isinstance(part, Component)}
    own = (sys.modules[name] for name in sorted(names) if not name.startswith("peftbench."))
    return [Path(module.__file__) for module in own if module.__file__]


def _stamp(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        if path.suffix == ".py":
            digest.update(path.read_bytes())
            return digest.hexdigest()
        # As deep as `datasets` saves a data set.
        below = [*path.glob("*"), *path.glob("*/*")] if path.is_dir() else [path]
        for file in sorted(file for file in below if file.is_file()):
            facts = file.stat()
            digest.update(f"{file.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    except OSError:
        return ""
    return digest.hexdigest()
