"""What structured pruning saves once it has happened: before and after, and beside LoRA of the small rank."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options
from peftbench.bench.goals import MIB, Goal, ratios, series

if TYPE_CHECKING:
    from peftbench.bench.contenders import Contender
    from peftbench.bench.workloads import Case

ON_DEVICE = True
WARMUP = 2
RANK = 64
"""Large, so that what half of it saves stands out from what the base costs."""
RATIO = 0.5
SPARSE = (f"sparsity.ratio={RATIO}", "sparsity.schedule=oneshot")
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "before": ("lora", (f"rank={RANK}",)),
    "pruned": ("sparse_lora", (f"rank={RANK}", "sparsity=structured", *SPARSE)),
    "small": ("lora", (f"rank={round(RANK * (1 - RATIO))}",)),
    "unstructured": ("sparse_lora", (f"rank={RANK}", "sparsity=magnitude", *SPARSE)),
}
"""Method and overrides of each contender; one that is pruned is so after its first step."""
LABELS = {
    "before": f"LoRA, rank {RANK}: before the prune",
    "pruned": f"after structured pruning of {RATIO:.0%}",
    "small": f"LoRA, rank {round(RANK * (1 - RATIO))} from the start",
    "unstructured": f"{RATIO:.0%} unstructured zeros, same rank",
}
TIMED = ("before", "pruned", "small")
GOALS = (
    Goal("A step gets faster", "ms", "pruned", "before", 1.0),
    Goal("and as fast as of the small rank from the start (≤ 1.05 ×)", "ms", "pruned", "small", 1.05),
    Goal("Peak memory gets smaller", "memory_bytes", "pruned", "before", 1.0),
    Goal("and as small as of the small rank from the start (≤ 1.05 ×)", "memory_bytes", "pruned", "small", 1.05),
    Goal("Adapter, gradients and moments ≤ 0.5 ×", "state_bytes", "pruned", "before", 0.5),
    Goal("Compact file ≤ 0.52 × dense, structured", "file_bytes", "pruned", "before", 0.52),
    Goal("Compact file ≤ 0.55 × dense, unstructured", "file_bytes", "unstructured", "before", 0.55),
)


def run(options: Options) -> dict[str, Any]:
    """Times turn by turn, memory of each by itself, files as a run writes them."""
    from peftbench.bench.memory import training_peaks
    from peftbench.bench.workloads import Case, workloads
    from peftbench.context import resolve_device

    where = str(resolve_device("auto"))
    case = Case(workloads(options.quick, where)[0], "all-linear", where)
    found: dict[str, dict[str, Any]] = {name: {} for name in WAYS}
    result: dict[str, Any] = {
        "workload": case.workload.name,
        "targets": case.targets,
        "device": case.device,
        "batch_size": case.workload.batch_size,
        "length": case.workload.length,
        "rounds": options.repetitions,
        "contenders": found,
    }
    options.say("pruning: files")
    for name, entry in found.items():
        contender = enter(case, name)
        entry |= {"file_bytes": file_bytes(contender), "state_bytes": state_bytes(contender)}
        result["random_weights"] = contender.context.record.base.get("random_weights", True)
    _time(case, result, options)
    for name in () if options.quick else TIMED:
        options.say(f"pruning: memory of {name}")
        peak = training_peaks(case, name, options.repetitions, enter)
        found[name]["memory_bytes"], result["memory_source"] = peak["bytes"], peak["source"]
    return result


def _time(case: Case, result: dict[str, Any], options: Options) -> None:
    import torch

    from peftbench.bench.timing import interleave
    from peftbench.measuring.clock import synchronize

    options.say(f"pruning: {options.repetitions} rounds")
    device = torch.device(case.device)
    steps = case.steps_per_turn(options.quick)
    work = {name: enter(case, name).step for name in TIMED}
    turns = interleave(work, options.repetitions, steps, warmup=WARMUP, wait=lambda: synchronize(device))
    result |= {"steps_per_turn": steps, "order": turns.order}
    for name, times in turns.ms.items():
        result["contenders"][name]["ms"] = times


def enter(case: Case, name: str) -> Contender:
    """One of `WAYS` in train mode after its first step, pruned if it is to be."""
    from peftbench.bench.contenders import ready
    from peftbench.run import build

    method, overrides = WAYS[name]
    context = case.context(method, *overrides)
    contender = ready(case, context, build(context, case.task))
    hook = context.run.sparsity.hook(contender.attached)
    hook.start(contender.optimizer, 2)
    contender.step()
    hook.after_step(0)  # of two, which is when it prunes
    return contender


def state_bytes(contender: Contender) -> int:
    """Bytes of the adapter, its gradients and its moments, which all have the adapter's shapes."""
    attached, optimizer = contender.attached, contender.optimizer
    adapter = [p for name, p in attached.trainable() if not attached.is_head(name)]
    moments = [t for p in adapter for t in optimizer.state[p].values() if t.shape == p.shape]
    return sum(p.nbytes for p in adapter) * 2 + sum(t.nbytes for t in moments)


def file_bytes(contender: Contender) -> int:
    """Bytes of the adapter's files as a run leaves them."""
    from peftbench.measuring.sizes import file_bytes as saved
    from peftbench.sparsity.compact import compact_folder

    run = contender.context.run
    with tempfile.TemporaryDirectory() as folder:
        run.method.save(contender.attached, Path(folder))
        if run.sparsity.active:
            compact_folder(Path(folder))
        return saved(Path(folder))["size/adapter_bytes"]


def page(results: dict[str, Any]) -> str:
    """Goals, then one table of all contenders."""
    weights = "random weights" if results["random_weights"] else "pretrained weights"
    memory = f"memory: {results.get('memory_source') or 'not measured'}"
    intro = (
        f"{results['workload']} ({weights}), LoRA on all linear layers, batch {results['batch_size']} × "
        f"{results['length']} tokens. One-shot pruning after the first step cuts rank components out of A, B and both "
        "moments; what is timed are steps of forward, backward, clipping and fused AdamW after it. All are alive "
        f"in one process and take turns, {results['rounds']} round(s) of {results['steps_per_turn']} timed step(s); a "
        "ratio is taken within each round, shown is the median, and from the smallest to the largest. Peak memory is "
        f"that of steps, on a CPU in a process of each contender's own, a new one each round ({memory}). Files are "
        "the adapter's, with its `adapter_config.json`, compact where something was pruned."
    )
    parts = {"Goals": _goals(results), "Contenders": _table(results)}
    return "\n\n".join([intro, *(f"## {heading}\n\n{text}" for heading, text in parts.items())])


def _goals(results: dict[str, Any]) -> str:
    rows = [
        [goal.text, _ratio(found), markdown.spread(found), goal.verdict(results)]
        for goal in GOALS
        for found in [goal.ratios(results)]
    ]
    return markdown.table(["Goal", "Measured", "From–to", "Verdict"], rows)


def _ratio(found: list[float] | None) -> str:
    """To three places: what half of an adapter saves of a step or of the memory is a few per cent."""
    return f"{median(found):.3f}×" if found else markdown.NOTHING


def _table(results: dict[str, Any]) -> str:
    columns = ["", "ms/step", "× before", "Peak MiB", "× before", "Adapter, gradients, moments, KiB", "File, KiB"]
    return markdown.table(columns, [_row(results, name) for name in results["contenders"]])


def _row(results: dict[str, Any], name: str) -> list[str]:
    times, memory = series(results, "ms", name), series(results, "memory_bytes", name)
    entry = results["contenders"][name]
    return [
        LABELS[name],
        markdown.middle(times),
        _ratio(ratios(results, "ms", name, "before")),
        markdown.middle(memory, MIB, 0),
        _ratio(ratios(results, "memory_bytes", name, "before")),
        f"{entry['state_bytes'] / 1024:,.0f}",
        f"{entry['file_bytes'] / 1024:,.0f}",
    ]
