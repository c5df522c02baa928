"""``tracker=wandb``: every run as a Weights & Biases run, online or written to its folder to be synced later.

The record on disk is the truth and this is a reader of it: whatever the service does, a run goes on, finishes and
keeps its files, and W&B costs it no more than two `PROBE_SECONDS`, `INIT_SECONDS` and `FINISH_SECONDS` together. What
did not arrive is in the run's folder, from where `peftbench.tracking.sync` delivers it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from peftbench.record import FINE, SOURCES, Record
from peftbench.tracking.base import Tracker
from peftbench.tracking.ending import UNDER_WAY, end, log_artifacts, marker
from peftbench.tracking.server import (
    AGENTS,
    LONGEST_TAG,
    authenticated,
    leave_agent,
    quiet_setup,
    reachable,
    refuse_project,
    refuse_variables,
    tags_in,
)
from peftbench.tracking.tries import NO_ARTIFACTS, begins, begun

if TYPE_CHECKING:
    from peftbench.config import RunConfig

logger = logging.getLogger(__name__)

INIT_SECONDS = 3.0
"""How long an online start may take; after that the run is offline."""
FINISH_SECONDS = 3.0
"""How long the end of a run may wait for its upload."""
STEP = "step"


class WandbTracker(Tracker):
    """Curves while a run trains; its configuration, figures and status when it ends."""

    project: str = Field(default="peftbench", max_length=128)
    entity: str | None = None
    mode: Literal["auto", "offline", "online"] = "auto"
    """``auto``: online if a key is configured, else offline. Without a connection both become offline."""
    tags: tuple[str, ...] = Field(default_factory=tuple)
    """Besides ``axis:value`` for each axis of the run."""
    artifacts: bool = False
    """Whether adapter and predictions are logged as artifacts."""

    _run: Any = PrivateAttr(default=None)

    @field_validator("project")
    @classmethod
    def _is_a_name(cls, project: str) -> str:
        refuse_project(project)
        return project

    @model_validator(mode="before")
    @classmethod
    def _by_the_variables(cls, fields: Any) -> Any:
        refuse_variables()
        if isinstance(tags := fields.get("tags"), str):
            fields = {**fields, "tags": tags_in(tags)}
        # As W&B takes a variable with nothing in it.
        return {name: value for name, value in fields.items() if value or name not in ("project", "entity", "tags")}

    def among_several(self) -> str | None:
        """See `Tracker.among_several`."""
        if not leave_agent():
            return None
        return f"{' and '.join(AGENTS)} name one run of a W&B sweep, and these are several: each is a run of its own"

    def start(self, run: RunConfig, folder: Path) -> None:
        """Begin the W&B run; its local files are in ``folder/wandb``."""
        with self._harmless("start"):
            folder.mkdir(parents=True, exist_ok=True)
            quiet_setup()
            if (mode := self._resolve_mode()) is not None:
                begins(folder)
                self._run = self._begin(run, folder, mode)
                UNDER_WAY.add(self._run)
                begun(marker(self._run).parent)
                self._run.define_metric(STEP, hidden=True, summary="none")
                # No summary of curves: a validation figure must not stand where the record's figure belongs.
                self._run.define_metric("*", step_metric=STEP, summary="none")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One point of the step curves, over the run's own step: W&B's counts the calls."""
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
            run.summary.update(summary_of(record))
            # Not the paths of this machine.
            environment = {name: value for name, value in record.environment.items() if name != SOURCES}
            facts = {"environment": environment, "data": record.data, "base": record.base}
            run.config.update(facts, allow_val_change=True)
            if self.artifacts and self._takes_artifacts(run):
                log_artifacts(run, record, folder)
            end(run, exit_code=0 if record.status in FINE else 1)  # W&B shows it as finished, or as failed

    def _takes_artifacts(self, run: Any) -> bool:
        """Whether artifacts can be given to ``run``, else its marker tells that they are missing.

        W&B's service waits for hours with an artifact that the server does not take, and the run's end behind it.
        """
        online = marker(run).exists()
        if online and not reachable(run.settings.base_url):
            marker(run).write_text(NO_ARTIFACTS, encoding="utf-8")
            return False
        return True

    def _begin(self, run: RunConfig, folder: Path, mode: Literal["online", "offline"]) -> Any:
        """The W&B run: online, or offline if that is asked for or the server does not start it in time."""
        import wandb

        try:
            made = wandb.init(**self._identity(run, mode), dir=str(folder), settings=run_settings())
        except Exception as error:
            if mode == "offline":
                raise
            logger.warning("W&B did not start this run (%s): it is kept offline", _one_line(error))
            # The service holds on to the id of a run that it could not start, so it is ended, which takes no time.
            wandb.teardown()
            quiet_setup()
            return self._begin(run, folder, "offline")
        if mode == "online":
            marker(made).touch()
        return made

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
        """Arguments of ``wandb.init``: the same configuration is the same W&B run, so that a re-run writes over it.

        Not resumed: W&B would put the curve of the second try behind that of the first.
        """
        axes = (f"{axis}:{value}" for axis, value in run.axes.items() if value is not None)
        return {
            "project": self.project,
            "entity": self.entity,
            "mode": mode,
            "group": run.sweep,
            "name": run.run_id,
            "id": tracked_id(run),
            "tags": [tag[:LONGEST_TAG] for tag in (*axes, *self.tags)],
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
            logger.warning("W&B tracking stopped at %s (%s); the record is kept", doing, _one_line(error))


def summary_of(record: Record) -> dict[str, Any]:
    """What W&B's summary of a run holds: the record's figures, its status and reason."""
    figures = {name: value for name, value in record.metrics.items() if value is not None}
    return {**figures, "status": record.status, "reason": record.reason or ""}


def tracked_id(run: RunConfig) -> str:
    """W&B's id of a run: its sweep and configuration decide it; at most 64 characters, all of which W&B takes."""
    digest = hashlib.sha256(f"{run.sweep}/{run.run_id}/{run.hash}".encode()).hexdigest()[:8]
    return f"{run.run_id[:55]}-{digest}"


def run_settings() -> Any:
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


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
