"""What ``trainer.compile`` brings: each method's step eager and compiled, turn by turn."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options
from peftbench.bench.goals import ratios, series

if TYPE_CHECKING:
    from peftbench.bench.contenders import Contender
    from peftbench.bench.workloads import Case

ON_DEVICE = True
WARMUP = 2
METHODS = ("lora", "hira", "qlora")
QUICK_METHODS = ("lora",)


def run(options: Options) -> dict[str, Any]:
    """Each method's two contenders on the first workload; compiling is timed apart."""
    import torch

    from peftbench.bench.contenders import enter
    from peftbench.bench.timing import interleave
    from peftbench.bench.workloads import Case, workloads
    from peftbench.context import resolve_device
    from peftbench.errors import Skip
    from peftbench.measuring.clock import synchronize

    where = str(resolve_device("auto"))
    case = Case(workloads(options.quick, where)[0], "attention", where)
    device, workload = torch.device(case.device), case.workload
    steps = case.steps_per_turn(options.quick)
    work: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for name in QUICK_METHODS if options.quick else METHODS:
        options.say(f"compiled: {name}")
        found[name] = {}
        entry: dict[str, Any] = {}
        found[f"{name}_compiled"] = entry
        work[name] = enter(case, name).step
        started = time.perf_counter()
        try:
            contender = compiled(case, name)
            contender.step()
        except (Skip, RuntimeError) as error:
            entry["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        synchronize(device)
        entry["compile_s"] = time.perf_counter() - started
        work[f"{name}_compiled"] = contender.step
    options.say(f"compiled: {options.repetitions} rounds")
    turns = interleave(work, options.repetitions, steps, warmup=WARMUP, wait=lambda: synchronize(device))
    for name, times in turns.ms.items():
        found[name]["ms"] = times
    return {
        "workload": workload.name,
        "batch_size": workload.batch_size,
        "length": workload.length,
        "device": case.device,
        "rounds": options.repetitions,
        "steps_per_turn": steps,
        "order": turns.order,
        "contenders": found,
    }


def compiled(case: Case, method: str) -> Contender:
    """A contender as a run with ``trainer.compile=true`` has it."""
    from peftbench.bench.contenders import ready
    from peftbench.run import build
    from peftbench.training.compiled import compiled as compile_steps

    context = case.context(method, "trainer.compile=true")
    contender = ready(case, context, build(context, case.task))
    return replace(contender, compiled=compile_steps(contender.attached.model, context.device))


def page(results: dict[str, Any]) -> str:
    """One table."""
    intro = (
        f"{results['workload']}, q and v, batch {results['batch_size']} × {results['length']} tokens. Compiled steps "
        "are made for batches of any length (`dynamic=True`); they draw torch's own dropout and use SDPA. All are "
        f"alive in one process and take turns, {results['rounds']} round(s) of {results['steps_per_turn']} timed "
        "step(s). Ratios are within a round: median, and smallest to largest. The first compiled step, which makes the "
        "kernels, is timed by itself (building the model is part of it)."
    )
    columns = ["", "Eager, ms/step", "Compiled, ms/step", "Compiled / eager", "From–to", "First step, s"]
    names = [name for name in results["contenders"] if not name.endswith("_compiled")]
    failed = [f"- {name}: {entry['error']}" for name, entry in results["contenders"].items() if "error" in entry]
    table = markdown.table(columns, [_row(results, name) for name in names])
    return "\n\n".join([intro, table, *(["\n".join(failed)] * bool(failed))])


def _row(results: dict[str, Any], name: str) -> list[str]:
    both = [series(results, "ms", each) for each in (name, f"{name}_compiled")]
    found = ratios(results, "ms", f"{name}_compiled", name)
    seconds = results["contenders"][f"{name}_compiled"].get("compile_s")
    return [
        name,
        *map(markdown.middle, both),
        markdown.ratio(found),
        markdown.spread(found),
        f"{seconds:.0f}" if seconds else markdown.NOTHING,
    ]
