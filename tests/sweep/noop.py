"""What a run is in tests of the engine: nothing, or one of the ways in which a run can end."""

from __future__ import annotations

import json
import os
import resource
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

if "pytest" not in sys.modules:
    end_with_parent()  # as in peftbench.sweep.preload: this module is what the fork server of the tests imports

FAULT = "NOOP_FAULT"
"""Environment variable: JSON with ``seed`` (of the run that is hit), ``kind`` and ``engine`` (its process id)."""


def execute(run, folder: Path, record, on_progress) -> None:
    """End as ``run.dataset.text_column`` says, which no such run reads; leave a trace of every start."""
    with (folder / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    _mark_overlap(folder)
    _arm(run.seed)
    on_progress("training", 1, 2)
    how, _, value = run.dataset.text_column.partition(":")
    match how:
        case "sleep":
            time.sleep(float(value))
        case "last":
            deadline = time.monotonic() + 100
            while len(list(folder.parent.glob("*/record.json"))) < int(value):
                assert time.monotonic() < deadline, "the others were not run meanwhile"
                time.sleep(0.02)
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
        case "first":
            if len((folder / "starts").read_text().split()) == 1:
                time.sleep(float(value))
        case "curve":
            value, _, pause = value.partition(":")
            for index in range(1, int(value) + 1):
                time.sleep(float(pause or 0))
                on_progress("training", 10 * index, 10 * int(value), {"validation/accuracy": run.seed + index / 100})
        case "children":
            for _ in range(2):
                if os.fork() == 0:
                    time.sleep(600)
            time.sleep(float(value))
    if how == "curve":
        record.history = [{"step": 10 * i, "validation/accuracy": run.seed + i / 100} for i in range(1, int(value) + 1)]
        record.selection = {"step": 10 * int(value)}
    record.metrics = {"quality/accuracy": 0.5, "noop/seed": run.seed, "cores": len(os.sched_getaffinity(0))}
    record.environment["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES")


def _mark_overlap(folder: Path) -> None:
    """Leave ``overlap`` where two processes are at one point."""
    at_work = folder / "at_work"
    if at_work.exists() and _is_alive(at_work.read_text()):
        (folder / "overlap").touch()
    # In one step: killed within a plain write it would leave an empty file, and /proc//stat is always there.
    mine = folder / f"at_work.{os.getpid()}"
    mine.write_text(str(os.getpid()))
    mine.rename(at_work)


def _is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _arm(seed: int) -> None:
    """Prepare the fault that this run was chosen for."""
    fault = json.loads(os.environ.get(FAULT, "null"))
    if fault is None or fault["seed"] != seed:
        return
    match fault["kind"]:
        case "disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        case "kill-run-in-write":
            kill_in_write(os.getpid())
        case "kill-engine-in-write":
            kill_in_write(fault["engine"])


def kill_in_write(pid: int) -> None:
    """From now on, kill ``pid`` when a record is written and not yet renamed."""
    held = os.replace

    def replace(source, target) -> None:
        if str(target).endswith("record.json"):
            os.kill(pid, signal.SIGKILL)
        held(source, target)

    os.replace = replace
