"""What a run ran on: device, precision, library versions and the exact code."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peftbench
from peftbench.measuring import heap
from peftbench.measuring.precision import bf16_gain, cpu_model, label, native_bf16

if TYPE_CHECKING:
    import torch

LIBRARIES = (
    "peftbench",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "numpy",
    "hydra-core",
    "omegaconf",
    "optuna",
    "wandb",
)


def describe(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """JSON types only; what cannot be found out is None. Never raises.

    Args:
        dtype: what matrix products are computed in (`peftbench.measuring.precision.resolve`).
    """
    import psutil
    import torch

    return {
        "device": str(device),
        "device_name": device_name(device),
        "precision": label(dtype),
        "precision_emulated": dtype == torch.bfloat16 and not native_bf16(device),
        "bf16_gain": bf16_gain(device),
        "threads": torch.get_num_threads(),
        "cores": _cores(),
        "allocator": heap.settings(),
        "ram_bytes": psutil.virtual_memory().total,
        "os": platform.platform(),
        "python": platform.python_version(),
        # torch's own word says which build it is, which the metadata of PyPI's CUDA build do not.
        "versions": {name: _version(name) for name in LIBRARIES} | {"torch": str(torch.__version__)},
        "cuda": torch.version.cuda,
        **git_state(Path(peftbench.__file__)),
    }


def device_name(device: torch.device) -> str:
    """The name the maker gave the device, e.g. ``NVIDIA H200`` or ``AMD EPYC 7763 64-Core Processor``."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return cpu_model() or platform.processor() or platform.machine()


def git_state(source: Path) -> dict[str, Any]:
    """``git_commit`` and ``git_dirty`` of the checkout that tracks the file ``source``, whatever the working directory.

    Both are None where there is no git, no checkout, or ``source`` is not part of the one around it (a wheel installed
    into a virtual environment inside some repository). Untracked files count as dirty: they can be imported. What is
    under ``docs`` does not: it changes no figure, and the page of one benchmark is there when the next one begins.
    """
    nothing = {"git_commit": None, "git_dirty": None}
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return nothing
    commit = _git(source.parent, "rev-parse", "HEAD")
    status = _git(source.parent, "status", "--porcelain", "--", ":(top)", ":(top,exclude)docs")
    if commit is None or status is None:
        return nothing
    return {"git_commit": commit, "git_dirty": bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in ``folder``, or None if it fails, is missing or takes too long."""
    # GIT_DIR and the like (set inside hooks) would answer for another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cores() -> int | None:
    """Cores this process may use, which in a container or a job can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return peftbench.__version__ if name == "peftbench" else None
