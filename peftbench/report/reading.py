"""Reading the records of a sweep folder, also of a very large one: on several cores, and equal parts held once."""

from __future__ import annotations

import gc
import marshal
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from peftbench.record import Record, read

FEW = 4_000
"""Records that are read sooner than processes are started."""
CHUNK = 1_000


def read_all(folder: Path, names: Sequence[str], workers: int = 1) -> list[Record | None]:
    """The records of these run folders, None where there is none that can be read.

    Args:
        workers: processes to read with. More than one are forked, which only a process without threads should do.
    """
    reader = partial(_read_some, str(folder))
    if workers < 2 or len(names) < FEW:
        return reader(names)
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        return [record for part in pool.map(reader, chunks) for record in part]


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which would search 100,000 records again and again and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_some(folder: str, names: Sequence[str]) -> list[Record | None]:
    with uncollected():
        found = [read(os.path.join(folder, name)) for name in names]
        _share([record for record in found if record is not None])
        return found


def _share(records: Sequence[Record]) -> None:
    """Make what is equal to another record's the same object: most parts are. It is held, sent and looked at once."""
    known: dict[bytes, Any] = {}
    keys: tuple[str, ...] = ()
    for record in records:
        for parts in (record.config, record.environment, record.data, record.base):
            for name, value in parts.items():
                # Version 2 has no references, so that equal values are equal bytes; 1, 1.0 and True are not.
                parts[name] = known.setdefault(marshal.dumps(value, 2), value)
        if keys != (own := tuple(record.metrics)):
            keys = own
        record.metrics = dict(zip(keys, record.metrics.values(), strict=True))
