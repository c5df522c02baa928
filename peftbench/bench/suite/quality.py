"""What the faster ways of training cost in quality: batches of like length against random ones, bf16 against fp32."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.record import Record

ON_DEVICE = False
SENTENCES = 4000
JOBS = 2
WAYS = {
    "plain": ("random batches, fp32", "trainer.precision=fp32"),
    "bucketed": ("batches of like length, fp32", "trainer.precision=fp32"),
    "both": ("batches of like length, bf16: ours", "trainer.precision=bf16"),
}
PAIRS = {
    "Bucketing": ("bucketed", "plain"),
    "bf16": ("both", "bucketed"),
    "Both together": ("both", "plain"),
}


def unbucketed(run: RunConfig, folder: Path, record: Record, on_progress: Any) -> None:
    """`peftbench.run.execute` with training batches of random items, in a process of its own."""
    from peftbench.run import execute
    from peftbench.tasks import batching

    # A bucket of one batch: its items are still sorted, among themselves.
    batching.BUCKET_BATCHES = 1
    execute(run, folder, record, on_progress)


def run(options: Options) -> dict[str, Any]:
    """Every way with every seed, two runs at a time; what is measured is quality, so they may disturb each other."""
    from peftbench.bench import realdata

    seeds = list(range(max(2, options.repetitions)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        source = realdata.make_up(folder / "sst2") if options.quick else realdata.find(options, "sst2")
        small = ("model=tiny", "dataset.train_size=32", "dataset.validation_size=8", "trainer.validations=1")
        real = ("model=minilm", f"dataset.train_size={SENTENCES}")
        fixed = (*(small if options.quick else real), "dataset=sst2", f"dataset.path={source}", f"output_dir={folder}")
        ways = {way: _way(way, seeds, fixed, options) for way in WAYS}
    return {"seeds": seeds, **ways["plain"].pop("facts"), "ways": {way: found["runs"] for way, found in ways.items()}}


def _way(way: str, seeds: Sequence[int], fixed: Sequence[str], options: Options) -> dict[str, Any]:
    from peftbench.bench.workloads import swept
    from peftbench.sweep.engine import carry_out_plan
    from peftbench.sweep.fork_server import ForkServer
    from peftbench.sweep.grid import grid_points
    from peftbench.sweep.plan import Plan

    title, precision = WAYS[way]
    options.say(f"quality: {title}, {len(seeds)} seeds")
    axes = f"seed={','.join(map(str, seeds))}"
    overrides = [*fixed, precision, f"sweep={way}", "trainer.lr=0.003", f"engine.jobs={JOBS}", "tracker=none", axes]
    overrides += ["method=lora", "device=cpu"]
    points = grid_points(*swept(overrides), None, overrides)
    launcher = ForkServer(execute=f"{__name__}:unbucketed") if way == "plain" else ForkServer()
    records = carry_out_plan(Plan.of(points), launcher)
    return {
        "runs": [_found(record, point.folder) for record, point in zip(records, points, strict=True)],
        "facts": {"data": records[0].data, "base": records[0].base["id"]},
    }


def _found(record: Record, folder: Path) -> dict[str, Any]:
    from peftbench.bench.paired import correct_answers
    from peftbench.errors import UserError

    if record.status != "ok":
        raise UserError(f"{record.run_id} is {record.status}: {record.reason}")
    return {
        "seed": record.config["seed"],
        "validation": record.selection["value"],
        "padding_efficiency": record.metrics["padding/efficiency"],
        "precision": record.environment["precision"],
        "correct": correct_answers(folder),
    }


def page(results: dict[str, Any]) -> str:
    """Every way's accuracy, and the paired differences."""
    from peftbench.bench.paired import difference

    splits = results["data"]["splits"]
    intro = (
        f"LoRA on {results['base']}, {splits['train']['size']:,} sentences of SST-2, one epoch, the same "
        f"{len(results['seeds'])} seeds for every way; the checkpoint that {splits['validation']['size']:,} "
        f"validation sentences chose is evaluated on {splits['evaluation']['size']} dev sentences. A seed gives every "
        "way the same head and adapter to begin with. Differences are paired by item and seed, with the 95 % interval "
        "of `peftbench.report.compare`; one that holds 0 is within noise."
    )
    rows = [_row(way, runs) for way, runs in results["ways"].items()]
    columns = ["", "dev, %", "From–to", "validation, %", "From–to", "Tokens needed / computed, worst seed"]
    ways = results["ways"]
    pairs = [[title, WAYS[a][0], WAYS[b][0], *difference(ways[a], ways[b])] for title, (a, b) in PAIRS.items()]
    compared = ["", "This", "Against", "Points on dev", "95 % interval", "Within noise"]
    return "\n\n".join([intro, markdown.table(columns, rows), markdown.table(compared, pairs)])


def _row(way: str, runs: Sequence[dict[str, Any]]) -> list[str]:
    dev = [run["correct"].count("1") / len(run["correct"]) for run in runs]
    efficiency = [run["padding_efficiency"] for run in runs]
    return [WAYS[way][0], *_share(dev), *_share([run["validation"] for run in runs]), f"{min(efficiency):.3f}"]


def _share(values: Sequence[float]) -> list[str]:
    return [f"{100 * sum(values) / len(values):.2f}", f"{100 * min(values):.2f}–{100 * max(values):.2f}"]
