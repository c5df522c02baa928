"""From the way a run ended to its record, also where the run could not write one itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.files import clear_scratch
from peftbench.record import CONFIG, FILE, Record, Status, read, write_atomically
from peftbench.sweep.grid import Point

LOG = "run.log"
CORRUPT = "record.corrupt.json"
PREVIOUS = "record.previous.json"
BY_ENGINE = "recorded_by_engine"
"""In the environment of records that an engine wrote in place of the run."""
TAIL_BYTES = 4000
TAIL_LINES = 40


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    code: int | None = 0
    signal: str | None = None
    timed_out: bool = False
    out_of_memory: bool = False
    """Whether the kernel ran out of memory meanwhile and killed something."""
    note: str | None = None
    """What the process said besides: that it could not write its record, and why."""
    lost: bool = False
    """Whether it was ended because the fork server that started it was."""
    server_failed: bool = False
    """Whether that server ended by itself, with an error on the terminal."""


def verdict(end: Exit) -> tuple[Status, str]:
    """Status and reason of a process that left no record."""
    if end.timed_out:
        return "killed", "the run took longer than engine.timeout and was ended"
    if end.note is not None:
        return "failed", end.note
    if end.lost and end.server_failed:
        said = "the fork server that started the process ended by itself, with the error on the terminal"
        return "killed", f"{said}: raise the limit of processes (ulimit -u), or lower engine.jobs"
    if end.lost and end.out_of_memory:
        return "oom", "the kernel ran out of memory and ended the fork server that started the process"
    if end.lost:
        return "killed", f"the fork server that started the process was ended; see {LOG}"
    if end.signal == "SIGKILL" and end.out_of_memory:
        return "oom", "the kernel ran out of memory and ended the process (SIGKILL)"
    if end.signal is not None:
        return "killed", f"the process was ended by {end.signal}; see {LOG}"
    return "failed", f"the process ended with exit code {end.code} and left no record; see {LOG}"


def record_of(point: Point) -> Record | None:
    """The record in the point's folder, if it is of this configuration and can be read."""
    held = read(point.folder)
    return held if held is not None and held.config_hash == point.run.hash else None


def is_own(record: Record) -> bool:
    """Whether the run wrote its record itself, so that nobody else can know better how it ended."""
    return BY_ENGINE not in record.environment


def blank_record(point: Point, started: datetime) -> Record:
    """A record of this point with nothing measured yet."""
    run = point.run
    return Record(
        run_id=run.run_id,
        sweep=run.sweep,
        status="failed",
        config=run.dump(),
        config_hash=run.hash,
        axes=run.axes,
        environment={"overrides": list(point.overrides)},
        started=started.isoformat(),
    )


def begin(point: Point) -> str | None:
    """Make the folder ready for a run of the point; returns what should be said about it, if anything.

    What is there may be of a run that was killed. A record that cannot be read, and an ``ok`` one that is to be
    replaced, are kept beside the new one; the files that a killed write left are removed.

    Raises:
        UserError: the folder cannot be written.
    """
    said = None
    with writing(point.folder):
        point.folder.mkdir(parents=True, exist_ok=True)
        for name in (FILE, CONFIG):
            for left in point.folder.glob(f".{name}.*"):
                left.unlink(missing_ok=True)
        clear_scratch(point.folder)
        path = point.folder / FILE
        held = read(point.folder)
        if held is None and path.exists():
            os.replace(path, point.folder / CORRUPT)
            said = f"{path} cannot be read: it is kept as {CORRUPT}, and the run is done again"
        elif held is not None and held.status == "ok":
            os.replace(path, point.folder / PREVIOUS)
        path.unlink(missing_ok=True)
        write_config(point)
    return said


def finish(
    point: Point,
    status: Status,
    reason: str,
    *,
    started: datetime | None = None,
    circumstances: Mapping[str, Any] | None = None,
    log: Path | None = None,
) -> Record:
    """Write the record of a point that could not write its own.

    Args:
        started: None if it has not been started.
        circumstances: what the record says of how it was carried out.
        log: read where the run itself has not logged anything.

    Raises:
        UserError: it cannot be written.
    """
    record = blank_record(point, started or datetime.now(UTC))
    record.status, record.reason, record.ended = status, reason, datetime.now(UTC).isoformat()
    record.environment |= {**(circumstances or {}), BY_ENGINE: True}
    record.log_tail = None if started is None else tail(point.folder / LOG) or (tail(log) if log else None)
    with writing(point.folder):
        write_config(point)
        record.write(point.folder)
    return record


def tail(log: Path) -> str | None:
    """The last lines of a file; None if there is none, or nothing in it."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:]) or None
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses inside is said in one sentence.

    Raises:
        UserError: with the path and the system's reason.
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"{error.filename or path} is no folder (it, or one above it, is a file or a link to nothing): move that "
            "away, or write output_dir=FOLDER"
        ) from error
    except OSError as error:
        where = error.filename or path
        raise UserError(
            f"{where} cannot be written ({error.strerror}): make room, or write output_dir=FOLDER; "
            "nothing that is done is lost, the same command goes on"
        ) from error


def write_config(point: Point) -> None:
    """Write the point's ``config.yaml``. The record holds the same: nothing is lost if a power cut takes this file."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # four times as fast where PyYAML was built with it
    text = yaml.dump(point.run.dump(), Dumper=dumper, sort_keys=False)
    write_atomically(point.folder / CONFIG, text, durable=False)
