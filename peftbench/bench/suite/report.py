"""How long ``python -m peftbench.report`` takes over a very large sweep, and how large its page is."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options
from peftbench.record import FILE, PREDICTIONS, Record

ON_DEVICE = False
RECORDS = 100_000
QUICK_RECORDS = 300
ITEMS = 872
SEEDS = 5
POOL = 40
"""Different files of predictions; every run has one of them, linked into its folder, and its record agrees with it."""
METHODS = ("lora", "sparse_lora", "qlora", "hira", "dora", "full", "vera", "ia3")
RANKS = (2, 4, 8, 16, 32, 64)
MAX_SECONDS, MAX_BYTES = 15.0, 5_000_000


def run(options: Options) -> dict[str, Any]:
    """Make the folder once, then report on it as often as there are repetitions, in a process of its own each time."""
    count = QUICK_RECORDS if options.quick else RECORDS
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "large"
        options.say(f"report: writing {count:,} records")
        generate(folder, count)
        seconds = []
        for index in range(options.repetitions):
            options.say(f"report: round {index + 1}")
            start = time.perf_counter()
            command = [sys.executable, "-m", "peftbench.report", str(folder)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        sizes = {name: (folder / name).stat().st_size for name in ("report.html", "results.csv", "results.parquet")}
    return {"records": count, "seconds": seconds, "bytes": sizes}


def page(results: dict[str, Any]) -> str:
    """The slowest round and the page's size, each against its bar."""
    slowest, size = max(results["seconds"]), results["bytes"]["report.html"]
    rows = [
        [
            "whole command, slowest round",
            f"{slowest:.1f} s",
            f"{MAX_SECONDS:g} s",
            markdown.met(slowest <= MAX_SECONDS),
        ],
        ["report.html", f"{size / 1e6:.2f} MB", f"{MAX_BYTES / 1e6:g} MB", markdown.met(size <= MAX_BYTES)],
    ]
    intro = (
        f"{results['records']:,} generated records ({SEEDS} seeds a setting, {ITEMS} predictions a run): "
        "`python -m peftbench.report` from start to end, table, page, CSV and Parquet included, in a new process. "
        "The files have just been written, so they are read from memory, not from a disk."
    )
    rounds = "Rounds: " + ", ".join(f"{value:.1f} s" for value in results["seconds"])
    return "\n\n".join([intro, markdown.table(["", "Measured", "Bar", ""], rows), rounds])


def generate(folder: Path, count: int) -> None:
    """Write a sweep folder of ``count`` records as runs leave them: their fields, sizes and predictions."""
    folder.mkdir(parents=True)
    accuracies = _pool(folder)
    for index, point in enumerate(itertools.islice(_points(), count)):
        chosen = (index * 7) % POOL
        record = _record(index, *point, accuracies[chosen])
        run_folder = folder / record.run_id
        run_folder.mkdir()
        (run_folder / FILE).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        os.link(folder / f".pool{chosen}", run_folder / PREDICTIONS)


def _points() -> Iterator[tuple[str, int, float, int]]:
    """Method, rank, learning rate and seed, without end: ever more learning rates."""
    for step in itertools.count():
        yield from itertools.product(METHODS, RANKS, (1e-5 * (step + 1),), range(SEEDS))


def _pool(folder: Path) -> list[float]:
    """Write the files of predictions; their accuracies."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    hard, label = rng.random(ITEMS), np.arange(ITEMS) % 2
    accuracies = []
    for index in range(POOL):
        correct = np.where(rng.random(ITEMS) < 0.9, hard, rng.random(ITEMS)) < 0.8 + 0.1 * index / POOL
        table = pd.DataFrame(
            {"id": np.arange(ITEMS), "label": label, "prediction": np.where(correct, label, 1 - label)}
        )
        table.to_parquet(folder / f".pool{index}", index=False)
        accuracies.append(float(correct.mean()))
    return accuracies


def _record(index: int, method: str, rank: int, lr: float, seed: int, accuracy: float) -> Record:
    """One in fifty has failed."""
    config = _config(method, rank, lr, seed)
    axes = {"method": method, "dataset": "sst2", "model": "minilm", "rank": rank}
    axes |= {"sparsity": "none", "ratio": None, "seed": seed}
    overrides = [f"method={method}", f"rank.value={rank}", f"trainer.lr={lr:g}", f"seed={seed}", "dataset=sst2"]
    splits = {"train": {"name": "train", "size": 66_349}, "validation": {"name": "validation (cut)", "size": 1_000}}
    splits["evaluation"] = {"name": "dev", "size": ITEMS}
    record = Record(
        run_id=f"{method}-sst2-minilm-r{rank}-s{seed}-{index:08x}",
        sweep="large",
        status="ok",
        config=config,
        config_hash=f"{index:064x}",
        axes=axes,
        environment={"overrides": overrides, **_ENVIRONMENT},
        data={"fingerprint": "5c" * 32, "label_names": ["0", "1"], "notes": [], "splits": splits},
        base={"id": "minilm", "revision": "0.1.0", "targets": ["query", "value"], "head": ["classifier"]},
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:10:00+00:00",
    )
    if index % 50 == 49:
        record.status, record.reason = "failed", "ValueError: the loss is not finite"
        record.traceback = "Traceback (most recent call last):\n" + '  File "loop.py", line 1, in run\n' * 10
        return record
    record.metrics = _metrics(method, rank, accuracy, index)
    record.history = [_report(step, accuracy) for step in (500, 1000, 1500, 2000)]
    chosen = {"rule": "best", "metric": "validation/accuracy", "step": 1500, "value": accuracy + lr}
    record.selection = {**chosen, "steps": 2000}
    return record


def _config(method: str, rank: int, lr: float, seed: int) -> dict[str, Any]:
    trainer: dict[str, Any] = {"epochs": 1.0, "max_steps": None, "lr": lr, "batch_size": 32, "eval_batch_size": 128}
    trainer |= {"precision": "auto", "attention": "auto", "optimizer": "adamw", "weight_decay": 0.01}
    trainer |= {"betas": [0.9, 0.999], "schedule": "linear", "warmup_ratio": 0.06, "max_grad_norm": 1.0}
    trainer |= {"gradient_checkpointing": False, "validations": 4, "select": "best"}
    dataset: dict[str, Any] = {"_target_": "peftbench.data.sst2.Sst2", "name": "sst2", "path": None, "train_size": None}
    dataset |= {"validation_size": None, "eval_size": None, "max_length": 128, "split_seed": 0}
    engine = {"in_process": False, "fail_fast": False, "retry_failed": True, "rerun": False, "timeout": None}
    return {
        "method": {"_target_": "peftbench.methods.any.Any", "name": method, "targets": "attention", "dropout": 0.0},
        "dataset": dataset,
        "model": {"_target_": "peftbench.models.packaged.Packaged", "name": "minilm", "targets": None, "path": None},
        "rank": {"value": rank, "alpha": None, "alpha_ratio": 2.0, "pattern": {}},
        "sparsity": {"_target_": "peftbench.sparsity.base.Sparsity", "name": "none"},
        "trainer": trainer,
        "tracker": {"_target_": "peftbench.tracking.base.Tracker", "name": "none"},
        "engine": {**engine, "dry_run": False},
        "seed": seed,
        "device": "auto",
        "sweep": "large",
        "output_dir": "outputs",
    }


_ENVIRONMENT: dict[str, Any] = {
    "device": "cpu",
    "device_name": "AMD EPYC",
    "precision": "fp32",
    "precision_emulated": False,
    "threads": 2,
    "cores": 2,
    "ram_bytes": 16 * 2**30,
    "os": "Linux",
    "python": "3.11.7",
    "versions": dict.fromkeys(("peftbench", "torch", "transformers", "peft", "datasets", "numpy", "wandb"), "1.0.0"),
    "cuda": None,
    "git_commit": "0" * 40,
    "git_dirty": False,
    "attention": "sdpa",
}


def _metrics(method: str, rank: int, accuracy: float, index: int) -> dict[str, float | int | str | None]:
    size, slow = 9_216 * rank, 1 + METHODS.index(method) / 20
    jitter = 1 + (index * 37 % 101 - 50) / 5_000
    found: dict[str, float | int | str | None] = {
        "quality/accuracy": accuracy,
        "quality/f1": accuracy - 0.001,
        "quality/mcc": 2 * accuracy - 1,
        "quality/loss": 1 - accuracy,
        "params/adapter": size,
        "params/head": 148_994,
        "params/trainable": size + 148_994,
        "params/total": size + 22_862_210,
        "params/adapter_nonzero": size,
        "size/base_bytes": 90_852_864,
        "size/adapter_bytes": 4 * size + 2_600,
        "size/head_bytes": 596_144,
        "memory/train_peak_bytes": int(5e8 * slow + 12 * size),
        "memory/eval_peak_bytes": int(2e8 * slow),
        "memory/source": "process_rss",
        "flops/train_per_token": 8.5e7 * slow,
        "padding/efficiency": 0.96,
    }
    for name, value in (("tokens", 4_000.0), ("samples", 150.0)):
        found[f"speed/train_{name}_per_s"] = value / slow * jitter
    for name in ("speed/train_step_ms", "speed/infer_latency_ms", "speed/infer_merged_latency_ms"):
        found |= {f"{name}_p50": 7.1 * slow * jitter, f"{name}_p95": 9.3 * slow * jitter}
    for name in ("load", "tokenize", "train", "eval", "total"):
        found[f"time/{name}_s"] = 12.345678 * slow * jitter
    return found


def _report(step: int, accuracy: float) -> dict[str, float | int]:
    value = accuracy - 50 / step
    return {
        "step": step,
        "train/loss": 1 - value,
        "validation/accuracy": value,
        "validation/f1": value,
        "validation/mcc": 2 * value - 1,
        "validation/loss": 1 - value,
    }
