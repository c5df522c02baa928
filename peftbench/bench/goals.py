"""Ratios of one contender to another, and the bars that are set for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from peftbench.bench import markdown

Figure = Literal["ms", "memory_bytes", "frozen_linear_bytes", "flops_per_token", "state_bytes", "file_bytes"]
Verdict = Literal["met", "not met", "not measured"]
MIB = 2**20
CaseResult = Mapping[str, Any]
"""One case of the results of `peftbench.bench.suite.steps`."""


@dataclass(frozen=True)
class Goal:
    """A bound on the median over rounds of ``above / below``."""

    text: str
    figure: Figure
    above: str
    below: str
    bound: float
    at_least: bool = False
    """Whether the ratio should reach the bound; otherwise it should not go beyond it."""
    targets: tuple[str, ...] = ("attention", "all-linear")
    devices: tuple[str, ...] = ("cpu", "cuda")

    def concerns(self, case: CaseResult) -> bool:
        """Whether it was set for such a case."""
        return case["targets"] in self.targets and case["device"].partition(":")[0] in self.devices

    def ratios(self, case: CaseResult) -> list[float] | None:
        """Round by round; None where it was not measured."""
        return ratios(case, self.figure, self.above, self.below)

    def verdict(self, case: CaseResult) -> Verdict:
        """What the measurement says, rounded nowhere."""
        found = self.ratios(case)
        if not found:
            return "not measured"
        value = median(found)
        return markdown.met(value >= self.bound if self.at_least else value <= self.bound)

    def row(self, where: str, case: CaseResult) -> list[str]:
        """Of a table with `COLUMNS`."""
        found = self.ratios(case)
        flops = ratios(case, "flops_per_token", self.above, self.below) if self.figure == "ms" else None
        return [
            self.text,
            where,
            markdown.ratio(found),
            markdown.spread(found),
            markdown.ratio(flops),
            self.verdict(case),
        ]


COLUMNS = ("Goal", "Where", "Measured", "From–to", "Its FLOPs", "Verdict")
FLOPS = (
    "*Its FLOPs*: the same ratio of counted FLOPs, which a step would take if it were nothing but products at one "
    "rate. A bound that this ratio does not keep is out of reach of the arithmetic alone."
)
"""What pages say below such a table."""

LORA = {"peft_lora": "PEFT's LoRA", "lora": "our LoRA"}
"""What a method's cost is set beside: ours is the faster one, and so the harder bar."""


def _beside(lora: str) -> tuple[Goal, ...]:
    """The bars that are set in units of LoRA's step and memory."""
    name = LORA[lora]
    return (
        Goal(f"HiRA's step ≤ 1.05 × that of {name} (q/v)", "ms", "hira", lora, 1.05, targets=("attention",)),
        Goal(f"HiRA's step ≤ 1.35 × that of {name} (all linear)", "ms", "hira", lora, 1.35, targets=("all-linear",)),
        Goal(f"HiRA's peak memory ≤ 1.05 × that of {name}", "memory_bytes", "hira", lora, 1.05),
        Goal(f"QLoRA's step ≤ 1.2 × that of {name} (CPU)", "ms", "qlora", lora, 1.2, devices=("cpu",)),
        Goal(f"QLoRA's step ≤ 1.3 × that of {name} (GPU)", "ms", "qlora", lora, 1.3, devices=("cuda",)),
        Goal(f"QLoRA's peak memory ≤ that of {name}", "memory_bytes", "qlora", lora, 1.0),
    )


GOALS = (
    *(goal for lora in LORA for goal in _beside(lora)),
    Goal("HiRA ≥ 1.6 × faster than PEFT's", "ms", "peft_hira", "hira", 1.6, at_least=True, targets=("all-linear",)),
    Goal("QLoRA's linear layers ≤ 0.16 × fp32", "frozen_linear_bytes", "qlora", "peft_lora", 0.16),
)


def ratios(case: CaseResult, figure: Figure, above: str, below: str) -> list[float] | None:
    """``above / below`` of one figure: within each round where it is timed, one value where it is counted."""
    top, bottom = series(case, figure, above), series(case, figure, below)
    if top is None or bottom is None:
        return None
    return [a / b for a, b in zip(top, bottom, strict=True)]


def series(case: CaseResult, figure: Figure, name: str) -> list[float] | None:
    """A contender's figure as measured: one value a round, or one in all; None where there is none."""
    value = case["contenders"].get(name, {}).get(figure)
    if value is None:
        return None
    return list(value) if isinstance(value, list) else [value]
