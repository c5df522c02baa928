"""An engine in a process of its own, to be killed: ``python engine_process.py PICKLE``."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path


def main() -> None:
    """The pickle holds the points, how they are carried out, and where the engine kills itself (or nowhere)."""
    from peftbench.sweep.engine import carry_out_plan
    from peftbench.sweep.plan import Plan
    from peftbench.sweep.slurm import pool

    points, cluster, die = pickle.loads(Path(sys.argv[1]).read_bytes())
    send = pool.submit

    def submit(*arguments) -> str:
        if die != "before":
            job = send(*arguments)
        if die in ("before", "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return job

    pool.submit = submit
    carry_out_plan(Plan.of(points), cluster)


if __name__ == "__main__":
    main()
