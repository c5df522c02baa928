"""Tracked processes for the tests: ``python child.py FOLDER MODE RUNS [OPTION ...]``, run with the project importable.

Runs called ``one``, ``two``, ... end in ``FOLDER/demo/NAME``, each with its record. Options: ``artifacts``; ``pause``
(say ``paused`` after the first figure and wait for a line); ``die`` (end without a word after the first figure).
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

NAMES = ("one", "two", "three")
METRICS = {"quality/accuracy": 0.875, "params/adapter": 147456, "memory/source": "process_rss", "energy/train_j": None}
CONFIG = {"method": {"name": "lora", "dropout": 0.1}, "rank": {"value": 8}, "sparsity": {"ratio": None}, "seed": 0}
CURVE = [{"step": step, "train/loss": 1 / step, "validation/accuracy": step / 100} for step in (10, 20, 30)]
KEY = "c0ffee" * 6 + "5eed"


def run_config(name: str = "lora-sst2-tiny-r8-s0-0123abcd", **changes) -> SimpleNamespace:
    """What the tracker reads of a `RunConfig`."""
    axes = {"method": "lora", "dataset": "sst2", "rank": 8, "ratio": None, "seed": 0}
    values = {"sweep": "demo", "run_id": name, "hash": "ab" * 32, "axes": axes, **changes}
    return SimpleNamespace(**values, dump=lambda: CONFIG)


def make_record(name: str = "id", status: str = "ok", reason: str | None = None):
    from peftbench.record import Record

    facts = {"environment": {"device_name": "CPU X"}, "data": {"fingerprint": "f00"}}
    tracker = {"_target_": "peftbench.tracking.wandb.WandbTracker", "name": "wandb", "project": "peftbench"}
    config = {**CONFIG, "tracker": {**tracker, "entity": None}}
    return Record(name, "demo", status, config, "ab", run_config().axes, reason=reason, metrics=dict(METRICS), **facts)


def environment(url: str, home: Path, **changes: str) -> dict[str, str]:
    """Of a process that knows the server at ``url`` and the made-up key, and nothing else of W&B."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    known = {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "HOME": str(home), "NETRC": str(home / "netrc")}
    return {**kept, **known, **changes}


def tracked(
    folder: Path, url: str, mode: str, *options: str, runs: int = 1, midway: Callable[[], object] = str, **changes: str
):
    """Run this file; ``midway`` is called at ``paused``. Output, and the seconds that the tracker's calls took."""
    command = [sys.executable, __file__, str(folder), mode, str(runs), *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment(url, folder, **changes), **pipes) as process:
        watchdog = threading.Timer(90, process.kill)
        watchdog.start()
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if said[-1] == "paused":
                midway()
                process.stdin.write("\n")
                process.stdin.flush()
        ended = time.monotonic()
        process.wait()
        watchdog.cancel()
    seconds = sum(float(line.split()[1]) for line in said if line.startswith("seconds ")) + time.monotonic() - ended
    return SimpleNamespace(code=process.returncode, said=said, seconds=seconds)


def main(folder: Path, mode: str, runs: int, options: list[str]) -> None:
    from peftbench.tracking import wandb as tracking

    for name in NAMES[:runs]:
        home = folder / "demo" / name
        (home / "adapter").mkdir(parents=True, exist_ok=True)
        (home / "adapter" / "adapter_model.safetensors").write_bytes(f"weights of {name}".encode())
        (home / "predictions.parquet").write_bytes(b"rows")
        tracker = tracking.WandbTracker(name="wandb", mode=mode, tags=("mine",), artifacts="artifacts" in options)
        start = time.monotonic()
        tracker.start(run_config(name), home)
        print("seconds", time.monotonic() - start, flush=True)
        for number, point in enumerate(CURVE):
            tracker.log(point["step"], point)
            if number == 0 and "pause" in options:
                print("paused", flush=True)
                sys.stdin.readline()
            if number == 0 and "die" in options:
                os._exit(9)
        record = make_record(name)
        record.write(home)
        start = time.monotonic()
        tracker.finish(record, home)
        print("seconds", time.monotonic() - start, flush=True)
    print("went on", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
