"""Which learning rate each method found best, on the validation split, with the same number of tries.

``python -m peftbench.report.choose outputs/fair_lr`` prints the choice as a Markdown table. With ``--write
sweeps/final.yaml`` it also writes the sweep that carries it on, each setting at its own rate, which
``peftbench -cn final`` runs. The evaluation split is not looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.record import Record, read_sweep
from peftbench.report.carry_on import carried, write

MINIMIZED = ("loss", "perplexity")


@dataclass(frozen=True)
class Choice:
    """The tries of one setting (all axes but the seed), and the best of them."""

    setting: str
    tries: dict[float, float]
    """Learning rate → mean over seeds of the selected checkpoint's validation figure."""
    metric: str
    example: Record
    """One of the runs: the recipe that the rate was chosen under."""

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
    found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    examples: dict[tuple[str, str], Record] = {}
    for record in records:
        if record.status != "ok":
            continue
        # HiRA on a 4-bit base is not HiRA, though the axes are the same.
        key = (_joined(record.setting), _joined(carried(record.config.get("method") or {}, ()).items(), "method."))
        found[key][record.config["trainer"]["lr"]].append(record.selection["value"])
        examples.setdefault(key, record)
    alike = Counter(axes for axes, _ in found)
    return [
        Choice(axes if alike[axes] == 1 else f"{axes}, {method}", _means(tries), record.selection["metric"], record)
        for ((axes, method), tries), record in zip(found.items(), examples.values(), strict=True)
    ]


def _joined(options: Iterable[tuple[str, Any]], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{key}={value}" for key, value in options if value is not None)


def _means(tries: dict[float, list[float]]) -> dict[float, float]:
    return {lr: fmean(values) for lr, values in sorted(tries.items())}


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
    print_anything()
    options = _parser().parse_args(arguments)
    folder: Path = options.folder
    try:
        found = choices(read_sweep(folder))
        if not found:
            raise UserError(f"{folder} holds no finished run: run peftbench -cn fair_lr first")
        if options.write:
            write(found, options.write, options.seeds)
    except UserError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        return 2
    print(f"{found[0].metric} of the selected checkpoint, by trainer.lr:\n\n{table(found)}")
    if len(tries := {len(choice.tries) for choice in found}) > 1:
        print(f"\nNot the same number of tries: from {min(tries)} to {max(tries)}, which favours those with more.")
    if options.write:
        print(f"\nWritten: {options.write}. From the folder above it, run: peftbench -cn {options.write.stem}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m peftbench.report.choose", description=__doc__)
    parser.add_argument("folder", type=Path, help="a sweep over trainer.lr, such as outputs/fair_lr")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the sweep of all settings at their rates, as sweeps/NAME.yaml"
    )
    parser.add_argument("--seeds", default="0,1,2", metavar="LIST", help="its seeds (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
