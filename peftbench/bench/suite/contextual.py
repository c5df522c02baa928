"""What a sparsely computed base saves: PEFT's LoRA and ours against ours with sparsity=contextual, at long texts, and
at short ones and one text a step, where it saves least."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options
from peftbench.bench.goals import COLUMNS, FLOPS, LORA, Goal, ratios, series

if TYPE_CHECKING:
    import torch

    from peftbench.bench.contenders import Contender
    from peftbench.bench.workloads import Case
    from peftbench.sparsity.contextual_hook import ContextualHook

ON_DEVICE = True
WARMUP = 3
GENTLE = 0.2
TRAINING = 375
"""Steps of a training, as those of docs/results/contextual.md have: what calibrating is spread over."""
VARIANTS: dict[str, tuple[str, ...]] = {"contextual": (), "gentle": (f"sparsity.ratio={GENTLE}",)}
"""What is left out by default, and less, of which docs/results/contextual.md says what accuracy it keeps."""
QUICK = ("sparsity.ratio=0.25", "sparsity.layers=[0]")
"""Of a network of two layers one is left, as the last computes what is read and no more."""
WHY = (
    "Sparsity leaves out products with frozen weights and nothing else: attention, dropout, activations and norms stay "
    "(the page of the benchmark `profile`), and choosing and gathering channels comes on top. A larger ratio would "
    "keep more of the bounds and loses more accuracy (docs/results/contextual.md)."
)
GOALS = tuple(
    goal
    for variant in VARIANTS
    for name, title in LORA.items()
    for where in [f" (ratio {GENTLE})" if variant == "gentle" else ""]
    for goal in (
        Goal(f"≥ 1.3 × faster steps than {title} at IMDB length{where}", "ms", name, variant, 1.3, at_least=True),
        Goal(f"≥ 1.7 × fewer FLOPs than {title}{where}", "flops_per_token", name, variant, 1.7, at_least=True),
    )
)


def run(options: Options) -> dict[str, Any]:
    """All contenders turn by turn on every workload."""
    from peftbench.bench.workloads import RANK, Case, long_workloads, workloads
    from peftbench.context import resolve_device

    device = str(resolve_device("auto"))
    long, short = long_workloads(options.quick, device), workloads(options.quick, device)[0]
    others = [short]
    if not options.quick:
        others += [replace(each, batch_size=1, steps_per_turn=10) for each in (long[0], short)]
    cases = [(Case(workload, "attention", device), True) for workload in long]
    cases += [(Case(workload, "attention", device), False) for workload in others]
    facts = {"rounds": options.repetitions, "warmup_steps": WARMUP, "rank": RANK}
    return options.gather(facts, (_case(case, is_long, options) for case, is_long in cases))


def _case(case: Case, long: bool, options: Options) -> dict[str, Any]:
    import torch

    from peftbench.bench.contenders import enter
    from peftbench.bench.timing import interleave
    from peftbench.measuring.clock import synchronize

    workload, device = case.workload, torch.device(case.device)
    options.say(f"contextual: {workload.title}: building")
    sparse = {key: enter_sparse(case, *more, *(QUICK if options.quick else ())) for key, more in VARIANTS.items()}
    racing = {**{lora: enter(case, lora) for lora in LORA}, **{key: found for key, (found, _) in sparse.items()}}
    counts = {key: contender.flops_per_token() for key, contender in racing.items()}
    decided = {key: hook.decisions()["sparsity"] for key, (_, hook) in sparse.items()}
    steps = case.steps_per_turn(options.quick)
    options.say(f"contextual: {workload.title}: {options.repetitions} rounds")
    turns = interleave(
        {key: contender.step for key, contender in racing.items()},
        options.repetitions,
        steps,
        warmup=1 if options.quick else WARMUP,
        wait=lambda: synchronize(device),
    )
    measure = {key: hook.recalibrate for key, (_, hook) in sparse.items()}
    again = interleave(measure, options.repetitions, 1, warmup=1, wait=lambda: synchronize(device))
    return {
        "name": workload.title,
        "long": long,
        "random_weights": racing["lora"].context.record.base.get("random_weights", True),
        "targets": case.targets,
        "device": case.device,
        "steps_per_turn": steps,
        "variants": {
            key: {
                "options": found.context.run.dump()["sparsity"],
                "decisions": decided[key],
                "calibration_ms": [_taken(hook.calibrate, device)],
                "recalibration_ms": again.ms[key],
            }
            for key, (found, hook) in sparse.items()
        },
        "order": turns.order,
        "contenders": {key: {"ms": turns.ms[key], "flops_per_token": counts[key]} for key in counts},
    }


def _taken(work: Callable[[], None], device: torch.device) -> float:
    """Milliseconds that ``work`` takes, once: it is as long as many steps."""
    from peftbench.measuring.clock import synchronize

    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return (time.perf_counter() - start) * 1e3


def enter_sparse(case: Case, *overrides: str) -> tuple[Contender, ContextualHook]:
    """The sparse contender in train mode, past its dense start, calibrated on the batch that it is timed on."""
    from peftbench.bench.contenders import ready
    from peftbench.run import build
    from peftbench.sparsity.contextual_hook import ContextualHook
    from peftbench.tasks.base import Batch

    context = case.context("lora", "sparsity=contextual", *overrides)
    contender = ready(case, context, build(context, case.task))
    attached = contender.attached
    attached.model.eval()  # as it is when a run prepares its hooks
    hook = context.run.sparsity.hook(attached)

    def loss(given: Batch) -> Any:
        with context.autocast():
            return case.task.loss(attached.model, given)

    hook.prepare(itertools.repeat(contender.batch), loss)
    hook.start(contender.optimizer, 100)
    assert isinstance(hook, ContextualHook)
    hook.after_step(hook.steps[0] - 1)
    attached.model.train()
    return contender, hook


def page(results: dict[str, Any]) -> str:
    """Goals, then one table of all workloads."""
    intro = (
        f"All train LoRA on q and v with rank {results['rank']}; two of them on a base that is computed sparsely, "
        "with the options that `sparsity=contextual` has by default, and with a smaller ratio. Ours compute of the "
        "last layer what the token needs that the classifier reads, PEFT's compute it whole. They are alive in one "
        f"process and take turns, {results['rounds']} round(s) after warm-up; a turn begins with an untimed step. A "
        "ratio is taken within each round; shown is the median over rounds, and from the smallest to the largest. A "
        "step is forward, backward, clipping and fused AdamW, after the dense start; choosing channels is part of "
        "it, calibration after that start and later on is not. *Calibrating* is what it takes the first time (timed "
        "once), and each time again, in steps of our LoRA. *Whole training* is what follows for all of "
        f"{TRAINING} steps, as many as those of docs/results/contextual.md: some at the start and at the end are "
        "dense, and calibration is part of it. FLOPs are counted op by op over a whole step."
    )
    cases = results["cases"]
    parts = {"Goals": _goals(cases), "Steps": _steps(cases), "What is left out": _left_out(cases)}
    return "\n\n".join([intro, *(f"## {heading}\n\n{text}" for heading, text in parts.items())])


def _goals(cases: list[dict[str, Any]]) -> str:
    rows = [
        goal.row(case["name"], case)
        for goal in GOALS
        for case in cases
        if case["long"] and goal.below in case["contenders"]
    ]
    return f"{markdown.table(COLUMNS, rows)}\n\n{FLOPS} {WHY}"


def _steps(cases: list[dict[str, Any]]) -> str:
    columns = ["", "Ratio", "PEFT's LoRA, ms/step", "our LoRA, ms/step", "contextual, ms/step"]
    columns += ["× PEFT's", "From–to", "× ours", "From–to", "Calibrating, again", "Whole training, × ours"]
    columns += ["MFLOP/token", "× PEFT's", "× ours"]
    return markdown.table(columns, [_row(case, variant) for case in cases for variant in _variants(case)])


def _variants(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options and decisions by contender; files from before there was more than one have them beside it."""
    alone = {"contextual": {key: case[key] for key in ("options", "decisions") if key in case}}
    found: dict[str, dict[str, Any]] = case.get("variants", alone)
    return found


def _row(case: dict[str, Any], variant: str) -> list[str]:
    times = [series(case, "ms", name) or [] for name in (*LORA, variant)]
    faster = [ratios(case, "ms", lora, variant) for lora in LORA]
    options, calibrating = _variants(case)[variant]["options"], _calibrating(case, variant)
    return [
        case["name"] + (" (random weights)" if case["random_weights"] else ""),
        f"{options['ratio']:g}",
        *(f"{median(found):.1f}" for found in times),
        *(text for found in faster for text in (markdown.ratio(found), markdown.spread(found))),
        ", ".join(f"{taken:.2f}" for taken in calibrating if taken) or markdown.NOTHING,
        f"{_whole(options, median(faster[-1]), calibrating):.2f}×" if faster[-1] else markdown.NOTHING,
        markdown.middle(series(case, "flops_per_token", variant), 1e6, 2),
        *(markdown.ratio(ratios(case, "flops_per_token", lora, variant)) for lora in LORA),
    ]


def _calibrating(case: dict[str, Any], variant: str) -> list[float]:
    """Dense steps that the first calibration takes, and one on the way; 0 in files from before they were timed."""
    found, step = _variants(case)[variant], median(series(case, "ms", "lora") or [math.inf])
    return [median(found.get(f"{name}_ms", [0.0])) / step for name in ("calibration", "recalibration")]


def _whole(options: dict[str, Any], faster: float, calibrating: list[float]) -> float:
    """How much faster a training is, of which some steps are dense."""
    once, again = calibrating
    dense: float = options["dense_start"] + options["dense_end"]
    measuring = (once + options.get("recalibrations", 0) * again) / TRAINING
    return 1 / (dense + measuring + (1 - dense) / faster)


def _left_out(cases: list[dict[str, Any]]) -> str:
    lines = {
        f"{case['name']}, ratio {found['options']['ratio']:g}": f"{decisions['left_out_of_a_sparse_step']:.3f} of the "
        "frozen linear layers' products; "
        + ", ".join(f"{block} {ratio:g}" for block, ratio in decisions["ratios"].items() if ratio)
        for case in cases
        for found in _variants(case).values()
        for decisions in [found["decisions"]]
    }
    return markdown.bullets(lines)
