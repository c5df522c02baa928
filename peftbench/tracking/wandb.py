"""``tracker=wandb``: every run as a Weights & Biases run, online or written to its folder to be synced later.

The record on disk is the truth and this is a reader of it: whatever the service does, a run goes on, finishes and
keeps its files. Whether the server answers is asked *before* the run begins, because a failed online start cannot be
turned into an offline run within the same process.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from peftbench.tracking.base import Tracker
from peftbench.tracking.server import authenticated, quiet_setup, reachable

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.record import Record

logger = logging.getLogger(__name__)

INIT_SECONDS = 8.0
"""How long an online start may take; with the probe before it, what an unresponsive server can cost a run's start."""
FINISH_SECONDS = 8.0
"""How long the end of a run may wait for its upload; what is left stays on disk for `peftbench.tracking.sync`."""
UNSYNCED = "unsynced"
"""Marker file in the folder of an online run whose upload did not finish."""
STEP = "step"
FINE = ("ok", "pruned", "skipped")
"""Statuses that W&B shows as finished; all others as failed."""


class WandbTracker(Tracker):
    """Curves while a run trains; its configuration, figures and status when it ends."""

    project: str = "peftbench"
    entity: str | None = None
    mode: Literal["auto", "offline", "online"] = "auto"
    """``auto``: online if a key is configured, else offline. Without a connection both become offline."""
    tags: tuple[str, ...] = Field(default_factory=tuple)
    """Besides ``axis:value`` for each axis of the run."""
    artifacts: bool = False
    """Whether adapter and predictions are logged as artifacts."""

    _run: Any = PrivateAttr(default=None)

    def start(self, run: RunConfig, folder: Path) -> None:
        """Begin the W&B run; its local files are in ``folder/wandb``."""
        with self._harmless("start"):
            import wandb

            folder.mkdir(parents=True, exist_ok=True)
            quiet_setup()
            if (mode := self._resolve_mode()) is not None:
                self._run = wandb.init(**self._identity(run, mode), dir=str(folder), settings=_settings())
                self._run.define_metric(STEP, hidden=True, summary="none")
                # No summary of curves: a validation figure must not stand where the record's figure belongs.
                self._run.define_metric("*", step_metric=STEP, summary="none")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One point of the step curves, over the run's own step: W&B's counter goes on when a run is resumed."""
        if self._run is None:
            return
        with self._harmless("log"):
            self._run.log({STEP: step, **{name: value for name, value in metrics.items() if value is not None}})

    def finish(self, record: Record, folder: Path) -> None:
        """Put the record's figures and status in the summary and end the run, waiting at most `FINISH_SECONDS`."""
        if self._run is None:
            return
        with self._harmless("finish"):
            run, self._run = self._run, None
            figures = {name: value for name, value in record.metrics.items() if value is not None}
            run.summary.update({**figures, "status": record.status, "reason": record.reason or ""})
            facts = {"environment": record.environment, "data": record.data, "base": record.base}
            run.config.update(facts, allow_val_change=True)
            if self.artifacts:
                _log_artifacts(run, record, folder)
            _end(run, exit_code=0 if record.status in FINE else 1)

    def _resolve_mode(self) -> Literal["online", "offline"] | None:
        """Where this run goes; None if ``WANDB_MODE=disabled`` says that it goes nowhere."""
        import wandb

        settings = wandb.setup().settings
        if self.mode == "auto" and settings.mode == "disabled":
            return None
        if self.mode == "offline":
            return "offline"
        if not authenticated():
            if self.mode == "online":
                logger.warning("tracker.mode=online but there is no W&B key (wandb login): this run is kept offline")
            return "offline"
        if not reachable(settings.base_url):
            logger.warning("W&B at %s cannot be reached: this run is kept offline", settings.base_url)
            return "offline"
        return "online"

    def _identity(self, run: RunConfig, mode: str) -> dict[str, Any]:
        """Arguments of ``wandb.init``: the same configuration is the same W&B run, so that a re-run continues it."""
        axes = (f"{axis}:{value}" for axis, value in run.axes.items() if value is not None)
        return {
            "project": self.project,
            "entity": self.entity,
            "mode": mode,
            "group": run.sweep,
            "name": run.run_id,
            "id": tracked_id(run),
            "resume": "allow" if mode == "online" else None,
            "tags": [tag[:64] for tag in (*axes, *self.tags)],
            "config": {**run.dump(), "config_hash": run.hash},
            "reinit": "create_new",
        }

    @contextmanager
    def _harmless(self, doing: str) -> Iterator[None]:
        """An exception inside is one line in the log and the end of tracking for this run, never of the run."""
        try:
            yield
        except Exception as error:
            self._run = None
            reason = " ".join(str(error).split())[:200]
            logger.warning(
                "W&B tracking stopped at %s (%s: %s); the record is kept", doing, type(error).__name__, reason
            )


def tracked_id(run: RunConfig) -> str:
    """W&B's id of a run: its sweep and configuration decide it; at most 64 characters of those that W&B takes."""
    digest = hashlib.sha256(f"{run.sweep}/{run.run_id}/{run.hash}".encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', run.run_id)[:55]}-{digest}"


def _settings() -> Any:
    """Settings of a run: silent, bounded in time, and nothing collected that the record already has."""
    import wandb

    return wandb.Settings(
        silent=True,
        quiet=True,
        console="off",
        symlink=False,
        save_code=False,
        disable_code=True,
        disable_git=True,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


def _end(run: Any, exit_code: int) -> None:
    """Finish ``run``; an upload that does not end in time is marked on disk and raised."""
    local = Path(run.dir).parent
    try:
        run.finish(exit_code=exit_code)
    except TimeoutError:
        (local / UNSYNCED).touch()
        raise


def _log_artifacts(run: Any, record: Record, folder: Path) -> None:
    """Log ``adapter/`` and ``predictions.parquet`` of a run, as far as they are there."""
    import wandb

    stem = re.sub(r"[^A-Za-z0-9._-]", "_", record.run_id)[:100]
    for kind, path in (("adapter", folder / "adapter"), ("predictions", folder / "predictions.parquet")):
        if not path.exists():
            continue
        artifact = wandb.Artifact(f"{stem}-{kind}", type=kind)
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        run.log_artifact(artifact)
