"""The end of a Weights & Biases run: what it leaves where not all of it has arrived, and its artifacts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.record import ADAPTER, PREDICTIONS
from peftbench.tracking.tries import NO_ARTIFACTS, UNSYNCED, is_without_artifacts

if TYPE_CHECKING:
    from peftbench.record import Record

logger = logging.getLogger(__name__)

NO_CURVE, NO_ARTIFACT = "filestream: fatal error", "failed to log artifact"
"""What W&B's service writes to its log where the server takes no curve, or no artifact: the run ends as if it had."""
UNDER_WAY: set[Any] = set()
"""W&B runs of this process that have begun and have not ended well."""


def end(run: Any, exit_code: int) -> None:
    """Finish ``run``; an upload that does not end in time leaves its marker on disk and raises.

    W&B's service writes what is left of a finished run a little later, or as it ends, and a process that ends takes it
    along: it is ended with the last run, which takes a tenth of a second.
    """
    import wandb

    place = marker(run)
    run.finish(exit_code=exit_code)
    if (said := refused(run)) is not None:
        logger.warning("W&B did not take all of this run (%s): make sync delivers it", said)
    if said == NO_ARTIFACT:
        place.write_text(NO_ARTIFACTS, encoding="utf-8")
    elif said is None and not is_without_artifacts(place.parent):
        place.unlink(missing_ok=True)
    UNDER_WAY.discard(run)
    if not UNDER_WAY:
        wandb.teardown()


def refused(run: Any) -> str | None:
    """`NO_CURVE` or `NO_ARTIFACT`, if it is in the log of a finished ``run``: W&B's service tells nobody else."""
    log = Path(run.dir).parent / "logs" / "debug-internal.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return next((said for said in (NO_CURVE, NO_ARTIFACT) if said in text), None)


def marker(run: Any) -> Path:
    """The file that says that a run may not have arrived."""
    return Path(run.dir).parent / UNSYNCED


def log_artifacts(run: Any, record: Record, folder: Path) -> None:
    """Log ``adapter/`` and ``predictions.parquet`` of a run, as far as they are there."""
    import wandb

    for kind, path in (("adapter", folder / ADAPTER), ("predictions", folder / PREDICTIONS)):
        if not path.exists():
            continue
        artifact = wandb.Artifact(f"{record.run_id[:100]}-{kind}", type=kind)
        add = artifact.add_dir if path.is_dir() else artifact.add_file
        add(str(path), policy="immutable", skip_cache=True)
        artifact.finalize()
        # `run.log_artifact` would ask the server first, for up to half a minute, and leave nothing on disk to sync.
        run._interface.publish_artifact(run, artifact, ["latest"])
