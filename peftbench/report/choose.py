"""Which learning rate each method found best, on the validation split, with the same number of tries.

``python -m peftbench.report.choose outputs/fair_lr`` prints the choice as a Markdown table and, for each method, the
override that carries it into another sweep. The evaluation split is not looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from peftbench.errors import UserError
from peftbench.record import Record, read_sweep

MINIMIZED = ("loss", "perplexity")


@dataclass(frozen=True)
class Choice:
    """The tries of one setting (all axes but the seed), and the best of them."""

    setting: str
    tries: dict[float, float]
    """Learning rate → mean over seeds of the selected checkpoint's validation figure."""
    metric: str

    @property
    def best(self) -> float:
        """The learning rate with the best figure; of equal ones the smallest."""
        sign = 1 if self.metric.endswith(MINIMIZED) else -1
        return min(self.tries, key=lambda lr: (sign * self.tries[lr], lr))

    @property
    def at_an_end(self) -> bool:
        """Whether the best lies at an end of the range, so that a better one may lie beyond."""
        return len(self.tries) > 1 and self.best in (min(self.tries), max(self.tries))


def choices(records: Iterable[Record]) -> list[Choice]:
    """One choice for every setting; runs that did not finish (a diverged rate, say) are tries without a figure."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    metrics: dict[str, str] = {}
    for record in records:
        if record.status != "ok":
            continue
        setting = ", ".join(f"{key}={value}" for key, value in record.setting if value is not None)
        found[setting][record.config["trainer"]["lr"]].append(record.selection["value"])
        metrics[setting] = record.selection["metric"]
    return [
        Choice(setting, {lr: fmean(values) for lr, values in sorted(tries.items())}, metrics[setting])
        for setting, tries in found.items()
    ]


def table(found: list[Choice]) -> str:
    """A Markdown table: a row a setting, a column a learning rate, the chosen one in bold."""
    rates = sorted({lr for choice in found for lr in choice.tries})
    lines = [
        "| setting | " + " | ".join(f"{lr:g}" for lr in rates) + " | chosen |",
        "|---" * (len(rates) + 2) + "|",
    ]
    for choice in found:
        cells = [
            "–" if lr not in choice.tries else f"**{choice.tries[lr]:.4f}**" if lr == choice.best else
            f"{choice.tries[lr]:.4f}" for lr in rates
        ]  # fmt: skip
        end = " (at an end of the range)" if choice.at_an_end else ""
        lines.append(f"| {choice.setting} | {' | '.join(cells)} | trainer.lr={choice.best:g}{end} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m peftbench.report.choose", description=__doc__)
    parser.add_argument("folder", type=Path, help="a sweep over trainer.lr, such as outputs/fair_lr")
    folder: Path = parser.parse_args(arguments).folder
    try:
        found = choices(read_sweep(folder))
        if not found:
            raise UserError(f"{folder} holds no finished run: run peftbench -cn fair_lr first")
    except UserError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        return 2
    print(f"{found[0].metric} of the selected checkpoint, by trainer.lr:\n\n{table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
