"""Sending jobs, through submitit."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peftbench.errors import UserError
from peftbench.sweep.orphans import VARIABLE
from peftbench.sweep.slurm.job import Task, main
from peftbench.sweep.slurm.options import Cluster
from peftbench.sweep.slurm.ticket import FOLDER

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel")


def check_here() -> None:
    """Find out before anything is written that nothing could be sent.

    Raises:
        UserError: Slurm's commands or submitit are not here.
    """
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        raise UserError(
            f"hydra/launcher=slurm: there is no {missing[0]} here; start on a login node of the cluster, or leave "
            "hydra/launcher=slurm out"
        )
    if importlib.util.find_spec("submitit") is None:
        raise UserError("hydra/launcher=slurm needs submitit: pip install 'peftbench[slurm]'")


def new_name(sweep: str) -> str:
    """A name for jobs that no other ones have."""
    return f"peftbench-{sweep}-{secrets.token_hex(4)}"


def submit(tasks: Sequence[Task], cluster: Cluster) -> str:
    """Send tasks of one ticket name as an array (a single one as a job); returns the job's number.

    Raises:
        UserError: Slurm refuses them.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    runs = [task.point.run for task in tasks]
    folder = tasks[0].point.folder.parent.absolute() / FOLDER / tasks[0].ticket.name
    # In place of the shell, whose exit code would hide the signal that ended it.
    executor = submitit.SlurmExecutor(folder=folder, python=f"exec {shlex.quote(sys.executable)}")
    limit = cluster.at_a_time(runs) or len(tasks)
    executor.update_parameters(**cluster.options.arguments(runs, tasks[0].ticket.name, limit))
    try:
        with _unsigned():
            jobs = executor.map_array(main, list(tasks))
    except (FailedJobError, FailedSubmissionError) as error:
        reason = " ".join(str(error).split()).removeprefix("sbatch: error: ")
        raise UserError(f"Slurm refuses the jobs ({reason}): change hydra.launcher, and start again") from error
    return str(jobs[0].job_id).partition("_")[0]


@contextmanager
def _unsigned() -> Iterator[None]:
    """Jobs inherit our environment, and outlive us: they must not be taken for what we have left behind."""
    held = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if held is not None:
            os.environ[VARIABLE] = held


def log_of(folder: Path, job: str) -> Path:
    """What Slurm kept of the output of a job: of its setup lines, and of what went wrong before the run's own log."""
    return folder / f"{job}_0_log.out"
