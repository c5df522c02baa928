"""What runs read from this machine besides their configuration: data, weights, and code that is not this package's.

The configuration of a run stays the same one when these change, so its record keeps what tells them apart.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from peftbench.component import Component
from peftbench.config import RunConfig
from peftbench.data.files import SUFFIXES
from peftbench.record import SOURCES, Record

READ = {*SUFFIXES, ".arrow", ".safetensors"}
"""Of a folder that may be a whole project or home, what data sets and networks are made of."""


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
    return [Path(file) for module in own if (file := getattr(module, "__file__", None))]


def _stamp(path: Path) -> str:
    digest = hashlib.sha256()
    for file in _files(path):
        with suppress(OSError):  # one that cannot be read is the run's to complain of
            facts = file.stat()
            known = file.read_bytes() if file.suffix == ".py" else f"{facts.st_size} {facts.st_mtime_ns}".encode()
            digest.update(f"{file.relative_to(path)} ".encode() + known + b"\n")
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """A file itself; of a folder what may be read, as deep as `datasets` saves a data set."""
    if not os.path.isdir(path):
        return [path]
    below = (file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.suffix in READ)
    return sorted(file for file in below if not file.relative_to(path).parts[0].startswith("."))
