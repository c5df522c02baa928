"""Sending jobs, through submitit."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from peftbench.errors import UserError
from peftbench.interpreter import python
from peftbench.sweep.orphans import VARIABLE
from peftbench.sweep.slurm.job import Task, main
from peftbench.sweep.slurm.options import Cluster
from peftbench.sweep.slurm.ticket import FOLDER


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
    executor = submitit.SlurmExecutor(folder=folder, python=f"exec {shlex.join(python())}")
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
