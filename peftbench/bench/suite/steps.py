"""How long an optimizer step takes: our methods and PEFT's against PEFT's plain LoRA, interleaved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options
from peftbench.bench.goals import COLUMNS, FLOPS, GOALS, MIB, ratios, series

ON_DEVICE = True
WARMUP = 3
QUICK_WARMUP = 1
TARGETS = {"attention": "q/v", "all-linear": "all linear layers"}


def run(options: Options) -> dict[str, Any]:
    """Every workload with each set of targets; memory is measured unless quick."""
    from peftbench.bench.workloads import LEARNING_RATE, RANK, Case, workloads
    from peftbench.bench.workloads import TARGETS as targets
    from peftbench.context import resolve_device

    device = str(resolve_device("auto"))
    warmup = QUICK_WARMUP if options.quick else WARMUP
    cases = [Case(workload, which, device) for workload in workloads(options.quick, device) for which in targets]
    facts = {"rounds": options.repetitions, "warmup_steps": warmup, "rank": RANK, "learning_rate": LEARNING_RATE}
    return options.gather(facts, (_case(case, warmup, options) for case in cases))


def _case(case: Any, warmup: int, options: Options) -> dict[str, Any]:
    from peftbench.bench.contenders import CONTENDERS

    workload = case.workload
    result: dict[str, Any] = {
        "workload": workload.name,
        "model": list(workload.model),
        "targets": case.targets,
        "device": case.device,
        "batch_size": workload.batch_size,
        "length": workload.length,
        "steps_per_turn": case.steps_per_turn(options.quick),
        "contenders": {name: {} for name in CONTENDERS},
    }
    _time(case, result, warmup, options)
    if not options.quick and not case.device.startswith("cuda"):
        _memory(case, result, options)
    return result


def _time(case: Any, result: dict[str, Any], warmup: int, options: Options) -> None:
    """Fill in times and counts; a contender that cannot do a step here has an ``error`` instead."""
    import torch

    from peftbench.bench.contenders import REFERENCE, Contender, enter
    from peftbench.bench.memory import entered
    from peftbench.bench.timing import interleave
    from peftbench.bench.workloads import TINY
    from peftbench.measuring.clock import synchronize
    from peftbench.measuring.sizes import parameter_counts

    on_gpu = case.device.startswith("cuda")
    if on_gpu:
        enter(replace(case, workload=TINY), REFERENCE).step()  # what libraries allocate once belongs to no contender

    racing: dict[str, Contender] = {}
    for name, entry in result["contenders"].items():
        options.say(f"steps: {result['workload']}, {case.targets}: building {name}")
        try:
            if on_gpu:
                contender, peak = entered(case, name, enter)
                entry["memory_bytes"], result["memory_source"] = peak["bytes"], peak["source"]
            else:  # whose peak is measured in a process of its own
                contender = enter(case, name)
                contender.step()
            entry |= {"flops_per_token": contender.flops_per_token(), "ops": contender.ops()}
        except Exception as error:  # a peer that fails here is a finding, the others are measured all the same
            entry["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        entry["trainable"] = parameter_counts(contender.attached)["params/trainable"]
        entry["frozen_linear_bytes"] = contender.frozen_linear_bytes()
        record = contender.context.record
        result |= {"base": dict(record.base), "attention": record.environment["attention"]}
        racing[name] = contender
    options.say(f"steps: {result['workload']}, {case.targets}: {options.repetitions} rounds")
    device = torch.device(case.device)
    turns = interleave(
        {name: contender.step for name, contender in racing.items()},
        options.repetitions,
        result["steps_per_turn"],
        warmup=warmup,
        wait=lambda: synchronize(device),
    )
    result["order"] = turns.order
    for name, times in turns.ms.items():
        result["contenders"][name]["ms"] = times


def _memory(case: Any, result: dict[str, Any], options: Options) -> None:
    """Fill in peak memory, contender by contender."""
    from peftbench.bench.memory import training_peaks

    for name, entry in result["contenders"].items():
        if "error" in entry:
            continue
        options.say(f"steps: {result['workload']}, {case.targets}: memory of {name}")
        try:
            found = training_peaks(case, name, options.repetitions)
        except Exception as error:
            entry["memory_error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        entry["memory_bytes"], result["memory_source"] = found["bytes"], found["source"]


def page(results: dict[str, Any]) -> str:
    """Goals first, then a table for each case."""
    intro = (
        f"A step is forward, backward, clipping and fused AdamW, rank {results['rank']}, no dropout in the adapters. "
        f"All contenders of a table are alive in one process and take turns, {results['rounds']} round(s) after "
        f"{results['warmup_steps']} warm-up step(s) each; a turn begins with an untimed step. A ratio is taken within "
        "each round; shown is the median over rounds, and from the smallest to the largest. PEFT's QLoRA is prepared "
        "with `prepare_model_for_kbit_training(use_gradient_checkpointing=False)`: the others do not recompute either. "
        "PEFT's are told the same layers and the same head that ours train. Ours compute of the last layer what the "
        "token needs that the classifier reads, PEFT's compute it whole: the results are the same. FLOPs are counted "
        "op by op; ops are all of a step's but views: where each is small, they are what a GPU waits for. Peak memory "
        "is that of training steps above what was used before the model was loaded: on a GPU CUDA's own count of "
        "tensors, on a CPU that of a process of each contender's own, a new one for each round, mapped weights that no "
        "step reads left out."
    )
    return "\n\n".join([intro, "## Goals", _goals(results["cases"]), *(_section(case) for case in results["cases"])])


def _goals(cases: list[dict[str, Any]]) -> str:
    rows = [goal.row(_name(case), case) for goal in GOALS for case in cases if goal.concerns(case)]
    return f"{markdown.table(COLUMNS, rows)}\n\n{FLOPS}"


def _name(case: dict[str, Any]) -> str:
    return f"{case['workload']}, {TARGETS[case['targets']]}"


def _section(case: dict[str, Any]) -> str:
    base = case.get("base", {})
    weights = "random weights" if base.get("random_weights", True) else f"the weights of {base['id']}"
    shape = "" if case["model"] == ["model=minilm"] else f" (`{' '.join(case['model'])}`)"
    facts = (
        f"{weights}{shape}, batch {case['batch_size']} × {case['length']} tokens, no padding, "
        f"{case['steps_per_turn']} timed step(s) a turn, attention: {case.get('attention', markdown.NOTHING)}, "
        f"memory: {case.get('memory_source') or 'not measured'}"
    )
    columns = ["", "ms/step", "× LoRA", "From–to", "MFLOP/token", "× LoRA", "Ops"]
    columns += ["Peak MiB", "× LoRA", "From–to", "Trained"]
    rows = [_row(case, name) for name in case["contenders"]]
    failed = [f"- {_label(name)}: {error}" for name, error in _errors(case)]
    return "\n\n".join(
        [f"## {_name(case)}", facts, markdown.table(columns, rows), *(["\n".join(failed)] * bool(failed))]
    )


def _row(case: dict[str, Any], name: str) -> list[str]:
    entry = case["contenders"][name]
    times, flops, memory = (series(case, figure, name) for figure in ("ms", "flops_per_token", "memory_bytes"))
    steps, peaks = (ratios(case, figure, name, "peft_lora") for figure in ("ms", "memory_bytes"))
    return [
        _label(name),
        markdown.middle(times),
        markdown.ratio(steps),
        markdown.spread(steps),
        markdown.middle(flops, 1e6, 2),
        markdown.ratio(ratios(case, "flops_per_token", name, "peft_lora")),
        f"{entry['ops']:,}" if "ops" in entry else markdown.NOTHING,
        markdown.middle(memory, MIB, 0),
        markdown.ratio(peaks),
        markdown.spread(peaks),
        f"{entry['trainable']:,}" if "trainable" in entry else markdown.NOTHING,
    ]


def _label(name: str) -> str:
    kind = {"lora": "LoRA", "hira": "HiRA", "qlora": "QLoRA"}[name.removeprefix("peft_")]
    peer = "PEFT + bitsandbytes" if name == "peft_qlora" else "PEFT"
    return f"{kind}, {peer if name.startswith('peft_') else 'ours'}"


def _errors(case: dict[str, Any]) -> list[tuple[str, str]]:
    found = [(name, entry.get("error") or entry.get("memory_error")) for name, entry in case["contenders"].items()]
    return [(name, error) for name, error in found if error]
