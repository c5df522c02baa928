"""Both sides of the sweep benchmark, each started as its users start it: our engine once, a script once a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.bench.paired import bits, correct_answers
from peftbench.errors import UserError
from peftbench.record import FILE

SCRIPT = Path(__file__).with_name("trainer_script.py")
METHODS = {"lora": "lora", "sparse_lora": "lora", "qlora": "qlora", "hira": "hira"}
"""Our methods, and what stands for each in a script: Trainer has no Sparse LoRA."""


@dataclass(frozen=True)
class Setting:
    """What both sides are given."""

    folder: Path
    """For everything that is written."""
    source: Path
    """SST-2 as published."""
    peer_data: Path
    """Our training sentences and dev split, as files."""
    model: tuple[str, ...]
    """Overrides of our configuration."""
    model_folder: str
    rates: dict[str, float]
    """Learning rate of each of our methods."""
    data: tuple[str, ...]
    """Overrides: how many sentences."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """Environment: no GPU, and caches that begin empty and are then kept, as on a machine of one's own."""
        caches = {"PEFTBENCH_CACHE": str(self.folder / "cache"), "HF_HOME": str(self.folder / "huggingface")}
        fixed = {"WANDB_MODE": "offline", "CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, **caches, **fixed, **self.environment}


def ours(setting: Setting, name: str, seed: int, *more: str) -> dict[str, Any]:
    """One engine with a run of each method at one seed: ``seconds`` of all, and its ``runs``."""
    where = " or ".join(f"method == '{method}' and trainer.lr == {rate!r}" for method, rate in setting.rates.items())
    sweep = ["-m", "peftbench", "-cn", "sst2", f"seed={seed}", f"hydra.sweeper.where={json.dumps(where)}"]
    where_to = [f"sweep={name}", f"output_dir={setting.folder / 'outputs'}", f"dataset.path={setting.source}"]
    seconds = _run([*sweep, *where_to, *setting.model, *setting.data, *more], setting)
    return {"seconds": seconds, "runs": [_record(path) for path in _records(setting.folder / "outputs" / name)]}


def _records(folder: Path) -> list[Path]:
    found = sorted(folder.glob(f"*/{FILE}"))
    if len(found) != len(METHODS):
        raise UserError(f"ours left {len(found)} records instead of {len(METHODS)}")
    return found


def _record(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["status"] != "ok":
        raise UserError(f"{record['run_id']} is {record['status']}: {record['reason']}")
    metrics = record["metrics"]
    return {
        "method": record["config"]["method"]["name"],
        "train_seconds": metrics["time/train_s"],
        "validation": record["selection"]["value"],
        "correct": correct_answers(path.parent),
        "trainable": metrics["params/trainable"],
        "phases": {key: value for key, value in metrics.items() if key.startswith("time/")},
        "inference": sorted(key for key in metrics if key.startswith("speed/infer")),
    }


def peer(setting: Setting, name: str, method: str, seed: int, *more: str) -> dict[str, Any]:
    """One run of the script: ``seconds`` of its process, and what it found."""
    output = setting.folder / "trainer" / f"{name}-{method}-{seed}"
    data = ["--data", str(setting.peer_data), "--model", setting.model_folder, "--output", str(output)]
    recipe = ["--method", METHODS[method], "--lr", str(setting.rates[method]), "--seed", str(seed)]
    seconds = _run([str(SCRIPT), *data, *recipe, *more], setting)
    result = json.loads((output / "result.json").read_text(encoding="utf-8"))
    correct = bits(np.asarray(result.pop("correct"), bool))
    return {"method": method, "seconds": seconds, **result, "correct": correct}


def _run(command: Sequence[str], setting: Setting) -> float:
    """Seconds that Python takes for a command, from its start to its end.

    Raises:
        UserError: it fails.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=setting.variables, cwd=setting.folder, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise UserError(f"{' '.join(command[:4])} ended with exit code {done.returncode}: {done.stderr[-500:]}")
    return seconds
