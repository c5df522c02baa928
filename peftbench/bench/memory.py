"""Peak training memory of each contender, so that what one leaves behind is not another's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import torch

from peftbench.bench.workloads import TINY, Case

if TYPE_CHECKING:
    from peftbench.bench.contenders import Contender

Enter = Callable[[Case, str], "Contender"]
STEPS = 3
"""The optimizer's state is there from the first on; the others are for the allocator to settle."""


def training_peaks(case: Case, name: str, times: int, enter: Enter | None = None) -> dict[str, Any]:
    """``bytes`` of `peak`, measured ``times`` times, and its ``source``; once where CUDA counts the tensors.

    Each time it is a new process: what the system has resident differs by some per cent from one to the next. Both are
    None where it cannot be measured.

    Raises:
        Exception: whatever it raised there.
    """
    if case.device.startswith("cuda"):
        found = [peak(case, name, enter)]
    else:
        found = [_elsewhere(case, name, enter) for _ in range(times)]
    source = found[0]["source"]
    return {"bytes": [each["bytes"] for each in found] if source else None, "source": source}


def _elsewhere(case: Case, name: str, enter: Enter | None) -> dict[str, Any]:
    context = get_context("forkserver")
    context.set_forkserver_preload(["peftbench.sweep.preload"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(peak, case, name, enter).result()


def peak(case: Case, name: str, enter: Enter | None = None) -> dict[str, Any]:
    """``bytes`` (peak above what the process used before the model was loaded) and ``source`` of some steps.

    Loading itself is not part of it. The same contender first does its steps on a tiny network: otherwise libraries
    that are paged in meanwhile would count, about as much for each, and bring all ratios closer to one.

    Args:
        enter: builds the contender, a function that can be imported; None is that of `peftbench.bench.contenders`.
    """
    from peftbench.bench import contenders
    from peftbench.context import prepare_process

    prepare_process()
    enter = enter or contenders.enter
    _steps(enter(replace(case, workload=TINY), name))
    return entered(case, name, enter)[1]


def entered(case: Case, name: str, enter: Enter) -> tuple[Contender, dict[str, Any]]:
    """A contender after its first steps, and ``bytes`` and ``source`` of their peak above what was used before it."""
    from peftbench.measuring.clock import synchronize
    from peftbench.measuring.memory import PeakMemory, resident

    device = torch.device(case.device)
    baseline = resident(device)
    contender = enter(case, name)
    with PeakMemory(device, baseline) as memory:
        _steps(contender)
        synchronize(device)
    return contender, {"bytes": memory.bytes, "source": memory.source}


def _steps(contender: Contender) -> None:
    for _ in range(STEPS):
        contender.step()
