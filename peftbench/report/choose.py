"""Which learning rate each method found best, on the validation split, with the same number of tries.

``python -m peftbench.report.choose outputs/fair_lr`` prints the choice as a Markdown table. With ``--write
sweeps/final.yaml`` it also writes the sweep that carries it on, each setting at its own rate, which
``peftbench -cn final`` runs. The evaluation split is not looked at.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from peftbench.cli.paths import CONF
from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.record import Record, read_sweep

MINIMIZED = ("loss", "perplexity")
SIZES = ("train_size", "validation_size", "eval_size")


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
        key = (_joined(record.setting), _joined(_carried(record.config.get("method") or {}, ()).items(), "method."))
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


def write(found: Sequence[Choice], path: Path, seeds: str) -> None:
    """Write a sweep file: the data, model and recipe of the search, each setting at its rate, with these seeds.

    Sizes of the data are not carried over: a search is often made on a part of it.

    Raises:
        UserError: the name is no sweep's, a seed is no number, or the settings were not searched under one recipe.
    """
    import yaml

    from peftbench.record import write_atomically

    if path.parent.name != "sweeps" or path.suffix != ".yaml" or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", path.stem):
        raise UserError(f"--write {path}: peftbench -cn finds sweeps/NAME.yaml, so write --write sweeps/final.yaml")
    if not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise UserError(f"--seeds {seeds}: write numbers with commas between them, such as --seeds 0,1,2")
    common = _common(found[0])
    for choice in found:
        if _common(choice) != common:
            raise UserError(f"{choice.setting} was searched with another recipe than {found[0].setting}: choose apart")
    groups = [{f"override {name}": _option(name, found[0].example.config[name])} for name in ("dataset", "model")]
    sweep = {
        "defaults": ["config", *groups, "_self_"],
        "sweep": path.stem,
        **common,
        "hydra": {"mode": "MULTIRUN", "sweeper": {"params": [_grid(choice, seeds) for choice in found]}},
    }
    head = "# Every setting at the learning rate it found best on validation, by python -m peftbench.report.choose.\n"
    write_atomically(path, head + yaml.safe_dump(sweep, sort_keys=False, width=120))


def _common(choice: Choice) -> dict[str, Any]:
    """What all settings of one search have alike: data, model and recipe."""
    config = choice.example.config
    parts = {"dataset": _chosen("dataset", config, SIZES), "model": _chosen("model", config, ())}
    return {**parts, "trainer": _carried(config["trainer"], ("lr",))}


def _chosen(group: str, config: Mapping[str, Any], without: Sequence[str]) -> dict[str, Any]:
    """All options of a part but those ``without``, and its name where the option that it is of gives it another."""
    part = config[group]
    own = _written(group, _option(group, part)).get("name") == part["name"]
    return ({} if own else {"name": part["name"]}) | _carried(part, without)


def _option(group: str, part: Mapping[str, Any]) -> str:
    """The option of a group that a part of a configuration was composed from; its name may be the user's own."""
    fits = {
        path.stem: _written(group, path.stem)
        for path in sorted((CONF / group).glob("*.yaml"))
        if _written(group, path.stem).get("_target_") == part.get("_target_")
    }
    named = [stem for stem, written in fits.items() if written.get("name") == part["name"]]
    unnamed = [stem for stem, written in fits.items() if written.get("name") is None]
    return [*named, *unnamed, *fits, str(part["name"])][0]


def _written(group: str, option: str) -> dict[str, Any]:
    import yaml

    path = CONF / group / f"{option}.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def _carried(part: dict[str, Any], without: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in ("_target_", "name", *without)}


def _grid(choice: Choice, seeds: str) -> dict[str, Any]:
    """One setting, all its options written out, as a grid over seeds."""
    config = choice.example.config
    grid: dict[str, Any] = {name: _option(name, config[name]) for name in ("method", "sparsity")}
    for part in ("method", "rank", "sparsity"):
        # What is null is so by default, but for the rank: there, null says which of two rules holds.
        options = _carried(config.get(part) or {}, ())
        written = {name: "null" if value is None and part == "rank" else value for name, value in options.items()}
        grid |= {f"{part}.{name}": value for name, value in written.items() if value is not None and value != {}}
    return {**grid, "trainer.lr": choice.best, "seed": seeds}


if __name__ == "__main__":
    sys.exit(main())
