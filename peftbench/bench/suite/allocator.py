"""What the C allocator costs: LoRA's step with glibc's own way, with freed memory used again, and with jemalloc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from peftbench.bench import markdown
from peftbench.bench.frame import Options
from peftbench.measuring import heap

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from peftbench.bench.timing import Work
    from peftbench.bench.workloads import Case

ON_DEVICE = False
WARMUP = 3
LEFT_ALONE = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
"""A default of glibc's: a run whose environment says something about the allocator tells it nothing."""
LABELS = {"own": "glibc's own way", "again": "used again", "jemalloc": "jemalloc"}


def ways() -> dict[str, dict[str, str]]:
    """The environment of each contender's process."""
    return {"own": LEFT_ALONE, "again": {}} | ({"jemalloc": preload} if (preload := heap.jemalloc()) else {})


def run(options: Options) -> dict[str, Any]:
    """Short and long texts; what is asked of an allocator is asked of a process, so each contender has its own."""
    from peftbench.bench.workloads import Case, long_workloads, workloads

    chosen = dict.fromkeys([*workloads(options.quick, "cpu")[:1], *long_workloads(options.quick, "cpu")])
    return options.gather(
        {"rounds": options.repetitions, "warmup_steps": WARMUP},
        (_case(Case(workload, "attention", "cpu"), options) for workload in chosen),
    )


def _case(case: Case, options: Options) -> dict[str, Any]:
    from peftbench.bench.timing import interleave

    workload = case.workload
    options.say(f"allocator: {workload.title}")
    pages: dict[str, list[int]] = {}
    with ExitStack() as open_:
        work = {}
        for way, variables in ways().items():
            pages[way] = []
            work[way] = open_.enter_context(_elsewhere(case, variables, pages[way]))
        turns = interleave(work, options.repetitions, workload.steps_per_turn, warmup=WARMUP)
    settled = {way: seen[WARMUP:] for way, seen in pages.items()}
    return {"name": workload.title, "order": turns.order, "ms": turns.ms, "pages": settled}


@contextmanager
def _elsewhere(case: Case, variables: dict[str, str], pages: list[int]) -> Iterator[Work]:
    """One step in a process of its own, which says how many pages it was given; gone at the end."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, case), daemon=True)
    with patch.dict(os.environ, variables):
        process.start()
    there.close()

    def step() -> None:
        here.send(True)
        pages.append(here.recv())

    try:
        yield step
    finally:
        here.close()
        process.join()


def _serve(asked: Connection, case: Case) -> None:
    """Do a step whenever one is asked for, until nobody is there to ask."""
    import resource

    from peftbench.bench.contenders import enter
    from peftbench.context import prepare_process

    prepare_process()
    contender = enter(case, "lora")
    while True:
        try:
            asked.recv()
        except EOFError:
            return
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        contender.step()
        asked.send(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def page(results: dict[str, Any]) -> str:
    """One table."""
    intro = (
        "LoRA's step on q and v with rank 8, no padding. glibc by itself gives large blocks and the end of its heap "
        "back to the system, which must find and clear new pages in the next step; used again is what runs tell it "
        "(`M_TRIM_THRESHOLD=-1`; `M_MMAP_THRESHOLD` of 32 MB); jemalloc takes its place where the machine has it. "
        f"Each has a process of its own; they take turns, {results['rounds']} round(s) after "
        f"{results['warmup_steps']} warm-up steps. A ratio is taken within each round; shown is the median over "
        "rounds, and from the smallest to the largest. New pages are the kernel's count of page faults in a step, the "
        "median over all."
    )
    measured = [way for way in LABELS if all(way in case["ms"] for case in results["cases"])]
    columns = ["", *(f"{LABELS[way]}, ms/step" for way in measured)]
    for way in measured[1:]:
        columns += [f"{LABELS[way]} / own", "From–to"]
    columns += [f"New pages a step, {LABELS[way]}" for way in measured]
    return f"{intro}\n\n{markdown.table(columns, [_row(case, measured) for case in results['cases']])}"


def _row(case: dict[str, Any], measured: list[str]) -> list[str]:
    cells = [case["name"], *(f"{median(case['ms'][way]):.1f}" for way in measured)]
    for way in measured[1:]:
        ratios = [this / own for this, own in zip(case["ms"][way], case["ms"]["own"], strict=True)]
        cells += [markdown.ratio(ratios), markdown.spread(ratios)]
    return cells + [f"{median(case['pages'][way]):,.0f}" for way in measured]
