"""A step of causal language modelling, whose output layer is as wide as the vocabulary: ours and PEFT's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftbench.bench import contenders, markdown
from peftbench.bench.frame import Options
from peftbench.bench.goals import MIB, ratios, series
from peftbench.bench.workloads import DISTILGPT2, RANK, TINY_GPT2, LanguageCase
from peftbench.tasks.causal_lm import CausalLM

if TYPE_CHECKING:
    from peftbench.bench.workloads import Case
    from peftbench.tasks.base import Batch

ON_DEVICE = True
WARMUP = 2
LABELS = {"peft_lora": "LoRA, PEFT", "lora": "LoRA, ours", "peft_hira": "HiRA, PEFT", "hira": "HiRA, ours"}


class Shifted(CausalLM):
    """The loss as users of transformers have it: the network is given labels, shifts them, and makes all logits."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task.loss`."""
        found: torch.Tensor = model(**batch.arguments, labels=batch.inputs["input_ids"]).loss
        return found


class PeerCase(LanguageCase):
    """The same case as a peer has it."""

    kind = Shifted


def enter(case: Case, name: str) -> contenders.Contender:
    """One of `LABELS`, see `contenders.enter`."""
    found = contenders.enter(case, name)
    if not name.startswith("peft_"):
        return found
    return replace(found, case=PeerCase(case.workload, case.targets, case.device))


def run(options: Options) -> dict[str, Any]:
    """One workload: times turn by turn, counts, and peak memory unless quick."""
    from peftbench.bench.memory import training_peaks
    from peftbench.bench.timing import interleave
    from peftbench.context import resolve_device
    from peftbench.measuring.clock import synchronize

    device = resolve_device("auto")
    workload = TINY_GPT2 if options.quick else DISTILGPT2
    case = LanguageCase(workload, "attention", str(device))
    options.say("language: building")
    racing = {name: enter(case, name) for name in LABELS}
    found: dict[str, dict[str, Any]] = {name: {"flops_per_token": racing[name].flops_per_token()} for name in LABELS}
    steps = case.steps_per_turn(options.quick)
    options.say(f"language: {options.repetitions} rounds")
    turns = interleave(
        {name: contender.step for name, contender in racing.items()},
        options.repetitions,
        steps,
        warmup=WARMUP,
        wait=lambda: synchronize(device),
    )
    racing.clear()
    for name, entry in found.items():
        entry["ms"] = turns.ms[name]
        if not options.quick:
            options.say(f"language: memory of {name}")
            entry["memory_bytes"] = training_peaks(case, name, options.repetitions, enter)["bytes"]
    return {
        "workload": workload.name,
        "model": list(workload.model),
        "batch_size": workload.batch_size,
        "length": workload.length,
        "rounds": options.repetitions,
        "steps_per_turn": steps,
        "order": turns.order,
        "contenders": found,
    }


def page(results: dict[str, Any]) -> str:
    """One table."""
    intro = (
        f"{results['workload']}'s shape, random weights (`{' '.join(results['model'])}`), batch "
        f"{results['batch_size']} × {results['length']} tokens; a step is forward, backward, clipping and fused AdamW, "
        f"rank {RANK} on the attention's fused projection. PEFT's are given labels and compute transformers' loss, of "
        "all logits; ours compute loss and gradient of the frozen output layer some rows at a time and keep no logits. "
        f"All are alive in one process and take turns, {results['rounds']} round(s) of {results['steps_per_turn']} "
        "timed step(s); a ratio is taken within each round; shown is the median over rounds, and from the smallest to "
        "the largest. Peak memory is that of training steps above what was used before the model was loaded, "
        "measured as often."
    )
    columns = ["", "ms/step", "× PEFT's LoRA", "From–to", "MFLOP/token", "Peak MiB", "× PEFT's LoRA", "From–to"]
    return f"{intro}\n\n{markdown.table(columns, [_row(results, name) for name in results['contenders']])}"


def _row(results: dict[str, Any], name: str) -> list[str]:
    times, flops, memory = (series(results, figure, name) for figure in ("ms", "flops_per_token", "memory_bytes"))
    steps, peaks = (ratios(results, figure, name, contenders.REFERENCE) for figure in ("ms", "memory_bytes"))
    return [
        LABELS[name],
        markdown.middle(times),
        markdown.ratio(steps),
        markdown.spread(steps),
        markdown.middle(flops, 1e6, 2),
        markdown.middle(memory, MIB, 0),
        markdown.ratio(peaks),
        markdown.spread(peaks),
    ]
