"""What each run may use while others run beside it: a GPU of its own, or a share of the cores."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.config import RunConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"
NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu", "/dev/kfd")
"""One of these is opened by who computes on a GPU: NVIDIA's, in WSL, on a Jetson, AMD's."""
DRIVER = Path("/proc/driver/nvidia/gpus")
_LISTED = re.compile(r"^\s*(GPU|MIG)\b.*\(UUID: ([^)]+)\)")
_KNOWN = re.compile(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Slot:
    """Room for one run at a time."""

    gpu: str | None = None
    """CUDA's name of its GPU; None where it has none of its own."""
    cores: tuple[int, ...] | None = None
    """Numbers of its cores; None: all there are."""

    def occupy(self) -> None:
        """In the process of a run, before it touches CUDA: see this GPU only, and stay on these cores."""
        if self.gpu is not None:
            os.environ[VISIBLE] = self.gpu
        if self.cores is None:
            return
        os.sched_setaffinity(0, self.cores)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(min(torch.get_num_threads(), len(self.cores)))


def slots_for(runs: Sequence[RunConfig]) -> tuple[Slot, ...]:
    """One slot for each run that may go on at a time (``engine.jobs``).

    ``auto`` is a run for every GPU where there are GPUs, and otherwise one: runs side by side slow each other down.

    Raises:
        UserError: several runs at a time, and one of them names a single GPU.
    """
    asked = runs[0].engine.jobs
    devices = {run.device for run in runs}
    named = next((device for device in sorted(devices) if device.startswith("cuda:")), None)
    if named and isinstance(asked, int) and asked > 1:
        raise UserError(f"engine.jobs={asked} gives each run its own GPU, and device={named} is one: write device=cuda")
    cards = gpus() if devices & {"auto", "cuda"} and not named and not runs[0].engine.in_process else []
    count = asked if isinstance(asked, int) else max(1, len(cards))
    if count == 1:
        # Alone on the machine a run is left all cores, and its first GPU is the one that CUDA would choose.
        return (Slot(),)
    shares = share(sorted(os.sched_getaffinity(0)), count)
    return tuple(Slot(cards[i % len(cards)] if cards else None, cores) for i, cores in enumerate(shares))


def share(cores: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """The cores in ``count`` equal shares (to within one), neighbours together; too few cores are taken in turn."""
    if count >= len(cores):
        return [(cores[i % len(cores)],) for i in range(count)]
    edges = [round(i * len(cores) / count) for i in range(count + 1)]
    return [tuple(cores[low:high]) for low, high in itertools.pairwise(edges)]


def may_have_gpus() -> bool:
    """Whether a run could compute on a GPU here. CUDA itself is not asked: who has been in it cannot fork."""
    import torch

    return bool(torch.version.cuda or torch.version.hip) and any(map(os.path.exists, NODES))


def gpus() -> list[str]:
    """CUDA's names of the GPUs there are for us; none where neither nvidia-smi nor NVIDIA's driver says them."""
    if (visible := os.environ.get(VISIBLE)) is not None:
        names = [name.strip() for name in visible.split(",")]
        return [name for name in names if name not in ("", "-1")]
    return _from_tool() or _from_driver()


def _from_tool() -> list[str]:
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return _listed(listed.stdout) if listed.returncode == 0 else []


def _from_driver() -> list[str]:
    """The UUIDs of whole cards; a container that is given CUDA alone has no nvidia-smi."""
    told = (path.read_text(encoding="utf-8", errors="replace") for path in sorted(DRIVER.glob("*/information")))
    return [found.group(1) for text in told if (found := _KNOWN.search(text))]


def _listed(text: str) -> list[str]:
    """The UUIDs in what ``nvidia-smi -L`` prints; a card that is cut into MIG instances stands for those."""
    names: list[str] = []
    whole = False
    for line in text.splitlines():
        if (found := _LISTED.match(line)) is None:
            continue
        kind, uuid = found.groups()
        if kind == "MIG" and whole:
            names.pop()
        whole = kind == "GPU"
        names.append(uuid)
    return names
