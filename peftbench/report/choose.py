"""Which learning rate each method found best, on the validation split, with the same number of tries.

``python -m peftbench.report.choose outputs/fair_lr`` prints the choice, a Markdown table for each figure. With
``--write sweeps/final.yaml`` it also writes the sweep that carries it on, each setting at its own rate, which
``peftbench -cn final`` runs. The evaluation split is not looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.record import Record, read_sweep
from peftbench.report.carry_on import write
from peftbench.report.options import NOT_DECISIVE, flatten, grouped

MINIMIZED = ("loss", "perplexity")
RATE = "trainer.lr"


@dataclass(frozen=True)
class Choice:
    """The tries of one setting (all axes but the seed), and the best of them."""

    setting: str
    runs: dict[float, list[float | None]]
    """Learning rate → each run's validation figure of the selected checkpoint; None of one that did not finish."""
    example: Record
    """One of the runs: the recipe that the rate was chosen under."""

    @property
    def metric(self) -> str:
        """The name of the figure."""
        return str(self.example.selection["metric"])

    @property
    def tries(self) -> dict[float, float]:
        """Learning rate → mean of its figures, for those that have any."""
        figures = {lr: [figure for figure in runs if figure is not None] for lr, runs in sorted(self.runs.items())}
        return {lr: fmean(found) for lr, found in figures.items() if found}

    @property
    def seeds(self) -> int:
        """How many seeds the rates have that have most."""
        return max(map(len, self.runs.values()))

    def finished(self, lr: float) -> int:
        """How many seeds of a rate have a figure; the rest diverged, or was not run."""
        return len(self.runs[lr]) - self.runs[lr].count(None)

    @property
    def best(self) -> float:
        """The rate with the best figure, of equal ones the smallest.

        Of those only at which every run finished, if there is one, and of these of those with most seeds.
        """
        sign = 1 if self.metric.endswith(MINIMIZED) else -1
        tries = self.tries
        sound = [lr for lr in tries if None not in self.runs[lr]] or list(tries)
        most = max(map(self.finished, sound))
        return min((lr for lr in sound if self.finished(lr) == most), key=lambda lr: (sign * tries[lr], lr))

    @property
    def at_an_end(self) -> bool:
        """Whether the best lies at an end of the range, so that a better one may lie beyond."""
        return len(self.runs) > 1 and self.best in (min(self.runs), max(self.runs))


def choices(records: Iterable[Record]) -> list[Choice]:
    """One choice for every setting with a figure; runs that failed (a diverged rate, say) are tries without one."""
    return [
        Choice(name, _by_rate(runs), next(run for run in runs if run.status == "ok"))
        for name, runs in _settings(records).items()
        if any(run.status == "ok" for run in runs)
    ]


def _settings(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The runs of every setting that was tried; a combination that cannot be is no try, nor is what has not ended."""
    found: dict[str, dict[tuple[str, ...], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.status != "skipped" and not record.interrupted:
            found[", ".join(_said(record.setting))][_options(record.config)].append(record)
    return {
        ", ".join([axes, *(option for option in options if not all(option in other for other in alike))]): runs
        for axes, alike in found.items()
        for options, runs in alike.items()
    }


def _options(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells settings of the same axes apart: HiRA on a 4-bit base is not HiRA, nor are eight epochs one."""
    decisive = flatten({name: value for name, value in config.items() if name not in NOT_DECISIVE})
    return tuple(_said(item for item in decisive.items() if item[0] != RATE and not item[0].endswith("._target_")))


def _said(options: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{name}={value}" for name, value in options if value is not None]


def _by_rate(runs: Iterable[Record]) -> dict[float, list[float | None]]:
    found: dict[float, list[float | None]] = defaultdict(list)
    for run in runs:
        found[run.config["trainer"]["lr"]].append(run.selection["value"] if run.status == "ok" else None)
    return dict(found)


def table(found: list[Choice]) -> str:
    """A Markdown table: a row a setting, a column a learning rate, the chosen one in bold."""
    rates = sorted({lr for choice in found for lr in choice.runs})
    lines = [
        "| setting | " + " | ".join(f"{lr:g}" for lr in rates) + " | chosen |",
        "|---" * (len(rates) + 2) + "|",
    ]
    for choice in found:
        cells = " | ".join(_cell(choice, lr) for lr in rates)
        end = " (at an end of the range)" if choice.at_an_end else ""
        lines.append(f"| {choice.setting} | {cells} | trainer.lr={choice.best:g}{end} |")
    return "\n".join(lines)


def _cell(choice: Choice, lr: float) -> str:
    """The figure of one try, and of how many seeds it is where it lacks some."""
    if lr not in choice.runs:
        return "–"
    figure = f"{choice.tries[lr]:.4f}" if lr in choice.tries else ""
    finished = choice.finished(lr)
    seeds = f"({finished} of {choice.seeds} seeds)" if finished < choice.seeds else ""
    return f"{f'**{figure}**' if lr == choice.best else figure} {seeds}".strip()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    print_anything()
    options = _parser().parse_args(arguments)
    folder: Path = options.folder
    try:
        records = list(read_sweep(folder))
        found = choices(records)
        if not found:
            raise UserError(f"{folder} holds no finished run: run peftbench -cn fair_lr first")
        if options.write:
            write(found, options.write, options.seeds)
    except UserError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(_tables(found)))
    for remark in _remarks(found, _settings(records)):
        print(f"\n{remark}")
    if options.write:
        print(f"\nWritten: {options.write}. From the folder above it, run: peftbench -cn {options.write.stem}")
    return 0


def _tables(found: Iterable[Choice]) -> Iterator[str]:
    """The table of every figure under its name: accuracies and perplexities are not of one."""
    for metric, alike in grouped(found, lambda choice: choice.metric).items():
        yield f"{metric} of the selected checkpoint, by trainer.lr:\n\n{table(alike)}"


def _remarks(found: Sequence[Choice], tried: Iterable[str]) -> Iterator[str]:
    """What the table alone does not tell of the ``found`` and of all settings that were ``tried``."""
    if any(choice.finished(lr) < choice.seeds for choice in found for lr in choice.runs):
        yield (
            "A rate at which runs did not finish is chosen only where that is so at all of a setting's rates, and of "
            "the others none that has fewer seeds than another one."
        )
    if none := sorted(set(tried) - {choice.setting for choice in found}):
        yield f"No run finished of {'; '.join(none)}."
    if len(tries := {len(choice.runs) for choice in found}) > 1:
        yield f"Not the same number of tries: from {min(tries)} to {max(tries)}, which favours those with more."


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
