"""The engine's side of jobs, without a Slurm."""

from __future__ import annotations

import pytest

from peftbench.sweep.engine import carry_out_plan
from peftbench.sweep.plan import Plan
from peftbench.sweep.slurm import pool
from peftbench.sweep.slurm.queue import Queue
from peftbench.sweep.slurm.ticket import Ticket, hand_over


class OneAtWork(Queue):
    """Says what Slurm's commands would have printed."""

    def _ask(self, *command: str) -> str | None:
        return "7|peftbench-s-1|RUNNING|N/A|node3\n"


def test_of_jobs_that_sbatch_was_ended_with_nobody_says_that_they_go_on(
    noop_points, cluster, monkeypatch, capsys
) -> None:
    """Ctrl-C ends sbatch too, before or after it has sent them; one was there before."""

    def interrupted(*_) -> str:
        raise KeyboardInterrupt

    points = noop_points("", "", "")
    hand_over(points[0], Ticket("peftbench-s-1", 0, "2026-01-02T03:04:05+00:00"))
    monkeypatch.setattr(pool.Cluster, "check_here", lambda self: None)
    monkeypatch.setattr(pool, "Queue", OneAtWork)
    monkeypatch.setattr(pool, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out_plan(Plan.of(points), cluster())
    out = capsys.readouterr().out
    assert "1 jobs go on: the same command waits for them, scancel --name=peftbench-s-1 ends them" in out
    assert "2 jobs may have been sent: the same command finds out" in out
    assert all(Ticket.read(point) for point in points), "for the next engine"
