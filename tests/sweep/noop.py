"""What a run is in tests of the engine: nothing, or one of the ways in which a run can end."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import peftbench.data.text
import peftbench.methods.lora
import peftbench.models.random
import peftbench.sparsity.base
import peftbench.sweep.child  # noqa: F401
from peftbench.sweep.orphans import end_with_parent

end_with_parent()  # as in peftbench.sweep.preload: this module is what the fork server of the tests imports


def execute(run, folder: Path, record, on_progress) -> None:
    """End as ``run.dataset.text_column`` says, which no such run reads; leave a trace of every start."""
    with (folder / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    on_progress("training", 1, 2)
    how, _, value = run.dataset.text_column.partition(":")
    match how:
        case "sleep":
            time.sleep(float(value))
        case "raise":
            raise RuntimeError(value or "broken")
        case "memory":
            raise MemoryError
        case "exit":
            sys.exit(int(value))
        case "silent":
            print("last words", flush=True)
            os._exit(int(value))
        case "kill":
            print("last words", flush=True)
            os.kill(os.getpid(), getattr(signal, value))
        case "flaky":
            if len((folder / "starts").read_text().split()) <= int(value):
                raise RuntimeError("not yet")
        case "children":
            for _ in range(2):
                if os.fork() == 0:
                    time.sleep(600)
            time.sleep(float(value))
    record.metrics = {"quality/accuracy": 0.5, "cores": len(os.sched_getaffinity(0))}
    record.environment["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES")
