"""Uploading local W&B folders with ``wandb sync``, and asking the server whether they arrived.

``wandb sync`` marks a run as synced even if its upload failed, and retries a server that answers 500 for hours. So
its marks are believed only once the server tells the run as ended, and it is stopped when it gets nowhere.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from peftbench import record
from peftbench.interpreter import python
from peftbench.tracking.ending import log_artifacts, refused
from peftbench.tracking.server import default_entity
from peftbench.tracking.tries import UNSYNCED, is_without_artifacts, last_of
from peftbench.tracking.wandb import FINE, WandbTracker, run_settings, summary_of

if TYPE_CHECKING:
    from peftbench.config import RunConfig

CHUNK = 50
"""Runs that one ``wandb sync`` takes, so that its start (about a second) is paid once for all of them."""
STALL_SECONDS = 120.0
"""``wandb sync`` is stopped when no run has arrived for so long."""
POLL_SECONDS = 0.2
EMPTY_BYTES = 7
"""Size of a ``.wandb`` file that has its header and nothing else."""
SECOND = "%Y%m%d_%H%M%S"
"""How the name of a W&B folder tells when its run began."""
ENDED = ("finished", "failed", "crashed", "killed")
"""What W&B calls the state of a run whose end it knows of."""


def is_synced(folder: Path) -> bool:
    """Whether this local W&B folder is marked as delivered."""
    return any(folder.glob("*.wandb.synced"))


def unmark(folder: Path) -> None:
    """Take the mark away, so that the folder is delivered next time."""
    for mark in folder.glob("*.wandb.synced"):
        mark.unlink()


def identity_of(folder: Path) -> str:
    """W&B's id of the run in the local W&B folder ``[offline-]run-YYYYMMDD_HHMMSS-ID``."""
    return folder.name.removeprefix("offline-").split("-", 2)[2]


def deliver(runs: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Upload local W&B folders; each as it is done, with None or why it did not arrive."""
    server = Server()
    for first in range(0, len(runs), CHUNK):
        yield from _chunk(runs[first : first + CHUNK], server)


def _chunk(runs: Sequence[Path], server: Server) -> Iterator[tuple[Path, str | None]]:
    for run in runs:
        unmark(run)
    left = list(runs)
    with Upload(runs) as upload:
        while left:
            ended = upload.ended()  # before looking for marks: the last of them are set before the end
            for run in [run for run in left if is_synced(run)]:
                left.remove(run)
                upload.moved()
                if (problem := server.arrived(run)) is not None:
                    unmark(run)
                yield run, problem
            if ended:
                break
            time.sleep(POLL_SECONDS)
        said = upload.said()
    for run in left:
        unmark(run)
        yield run, said


class Upload:
    """A ``wandb sync`` process over some folders, as a context manager that leaves none behind."""

    def __init__(self, runs: Sequence[Path]) -> None:
        command = [*python(), "-m", "wandb", "sync", "--include-online", "--include-synced", *map(str, runs)]
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed at exit
        # Its error telemetry would hold it at its exit, see `quiet_setup`.
        environment = {"WANDB_ERROR_REPORTING": "false", **os.environ}
        self._process = subprocess.Popen(command, stdout=self._output, stderr=subprocess.STDOUT, env=environment)
        self._stalled = False
        self.moved()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    def moved(self) -> None:
        """Something arrived."""
        self._last = time.monotonic()

    def ended(self) -> bool:
        """Whether the process has ended, or gets nowhere and was stopped."""
        if self._process.poll() is not None:
            return True
        self._stalled = time.monotonic() - self._last > STALL_SECONDS
        return self._stalled

    def said(self) -> str:
        """Why what has not arrived did not."""
        if self._stalled:
            return f"W&B took nothing for {STALL_SECONDS:.0f} s"
        self._output.seek(0)
        lines = [line for line in self._output.read().splitlines() if line.strip()]
        return lines[-1].removeprefix("wandb: ") if lines else "wandb sync said nothing"


class Server:
    """What W&B holds of runs, by its public API."""

    def __init__(self) -> None:
        self._api: Any = None

    def arrived(self, folder: Path) -> str | None:
        """None if the server tells the run as ended and has its figures, else why not.

        A run whose process was killed put no figures in its folder: the ones of its record are sent now.
        """
        try:
            held = self._run(folder)
            if held.state not in ENDED:
                return f"W&B tells the run as {held.state}: its upload was not complete"
            found = record.read(folder.parents[1])
            wanted = summary_of(found) if found else {}
            if any(held.summary_metrics.get(name) != value for name, value in wanted.items()):
                held.summary.update(wanted)
            if found and is_without_artifacts(folder):
                _add_artifacts(held, found, folder)
        except Exception as error:
            return " ".join(str(error).split())[:200] or type(error).__name__
        return None

    def _run(self, folder: Path) -> Any:
        import wandb

        self._api = self._api or wandb.Api(timeout=10)
        found = record.read(folder.parents[1])
        tracker = (found.config.get("tracker") or {}) if found else {}
        path = f"{tracker.get('project', 'peftbench')}/{identity_of(folder)}"
        if entity := tracker.get("entity"):
            return self._api.run(f"{entity}/{path}")
        # Where it was tracked decides, with WANDB_ENTITY there or without it, and not what is set now.
        with suppress(ValueError, wandb.errors.CommError):
            return self._api.run(f"{default_entity(self._api)}/{path}")
        return self._api.run(f"{self._api.default_entity}/{path}")


def replay(folder: Path) -> Path:
    """A new W&B folder made of the record of a run whose own W&B folder holds nothing: its process was killed.

    W&B's service writes to disk in blocks, so a run that is killed early, or logs little, leaves an empty file. Of the
    curves the record has the validation points.
    """
    found = record.read(folder.parents[1])
    if found is None or any(path.stat().st_size > EMPTY_BYTES for path in folder.glob("*.wandb")):
        return folder
    tracker = WandbTracker.load({**found.config["tracker"], "mode": "offline"})
    # W&B names folders by the second and puts a number behind the second of a name, which is no part of the run's id.
    while time.strftime(SECOND) in folder.name:
        time.sleep(POLL_SECONDS)
    tracker.start(facts_of(found), folder.parents[1])
    for point in found.history:
        tracker.log(int(point["step"]), point)
    tracker.finish(found, folder.parents[1])
    return last_of(list(folder.parent.glob("offline-run-*")))


def facts_of(found: record.Record) -> RunConfig:
    """What a tracker reads of a run's configuration, as its record has it."""
    facts = {"sweep": found.sweep, "run_id": found.run_id, "hash": found.config_hash, "axes": found.axes}
    return cast("RunConfig", SimpleNamespace(**facts, dump=lambda: found.config))


def _add_artifacts(held: Any, found: record.Record, folder: Path) -> None:
    """Give the artifacts to a run that had to end without them."""
    import wandb

    where = {"entity": held.entity, "project": held.project, "id": held.id, "resume": "must"}
    settings = run_settings()
    settings.init_timeout, settings.finish_timeout = STALL_SECONDS, STALL_SECONDS
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as holder:
        run = wandb.init(**where, mode="online", dir=holder, settings=settings, reinit="create_new")
        log_artifacts(run, found, folder.parents[1])
        run.finish(exit_code=0 if found.status in FINE else 1)
        if (said := refused(run)) is not None:
            raise RuntimeError(f"W&B did not take the artifacts ({said})")
    (folder / UNSYNCED).write_text("", encoding="utf-8")
