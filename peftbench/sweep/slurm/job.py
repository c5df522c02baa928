"""Inside a job: the run in a process of its own, watched as on any machine, if the job is still wanted."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.sweep.claim import Claim
from peftbench.sweep.fork_server import ForkServer
from peftbench.sweep.outcome import is_own, record_of
from peftbench.sweep.pool import Pool
from peftbench.sweep.progress import Progress
from peftbench.sweep.slots import Slot
from peftbench.sweep.slurm.ticket import JOB, Ticket, Wire

if TYPE_CHECKING:
    from peftbench.sweep.grid import Point

PATIENCE = 120.0
"""Seconds in which a job that was cancelled, and whose point we have now, is given to end."""


@dataclass(frozen=True)
class Task:
    """What a job is told."""

    point: Point
    ticket: Ticket
    judged: bool
    """Whether an engine decides after validations if the run goes on."""
    execute: str
    preload: str


def main(task: Task) -> None:
    """Carry out one point; its record is written here, unless Slurm ends the job first."""
    # Slurm can announce the end of a job with it; we have nothing to do then, and it would end the run.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    point = task.point
    if (claim := _claim(point)) is None:
        print(f"{point.run.run_id} is with another job")
        return
    if Ticket.read(point) != task.ticket:
        print(f"{point.run.run_id} is no longer for this job")
        claim.release()
        return
    held = record_of(point)
    if held is not None and is_own(held):
        print(f"{point.run.run_id} has its record ({held.status})")
        claim.release()
        return
    _carry_out(task, claim)


def _carry_out(task: Task, claim: Claim) -> None:
    wire = Wire(task.point)
    wire.clear()
    _share_cores()
    launcher = ForkServer(task.execute, task.preload)
    launcher.circumstances = {"slurm_job": job_id(), "slurm_restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0))}
    # Slurm has seen to it that the GPU that is visible is ours alone.
    with Progress(1) as progress, Pool([task.point], progress, launcher, slots=(Slot(),)) as pool:
        pool.start(task.point, claim, wire.judge if task.judged else None)
        while pool.busy:
            for record in pool.wait():
                progress.done(record)


def _claim(point: Point) -> Claim | None:
    deadline = time.monotonic() + PATIENCE
    while (claim := Claim.take(point, JOB)) is None and time.monotonic() < deadline:
        time.sleep(1)
    return claim


def _share_cores() -> None:
    """Where Slurm does not bind jobs to their cores, keep to as many threads as we have been given cores."""
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if given.isdigit() and int(given) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", given)


def job_id() -> str:
    """``123_4``, or ``123`` of a job that is no array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
