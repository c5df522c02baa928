"""A whole sweep: four methods with three seeds by our engine, and the same runs as scripts with Trainer and PEFT."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options

if TYPE_CHECKING:
    from peftbench.bench.rivals import Setting

ON_DEVICE = False
SEEDS = 3
SENTENCES = 8000
JOBS = 2
RATES = {"lora": 0.003, "sparse_lora": 0.003, "qlora": 0.003, "hira": 0.03}
"""Which the validation split chose on as many sentences (docs/results/fair_lr.md)."""
PADDED = ("lora",)
"""With one seed: a run takes minutes, and of these it is the fastest."""
ONCE = "trainer.validations=1"
"""At the end, when the script evaluates too."""
SIDES = {
    "ours": f"ours, {JOBS} runs at a time, validating once",
    "defaults": f"ours, {JOBS} runs at a time, validating as often as it does by default",
    "alone": "ours, one run after another, validating once",
    "trainer": "Trainer + PEFT, a process a run",
    "padded": "the same, padded to 128 (LoRA only)",
    "matched": "Trainer + PEFT at our batch size and in our precision (LoRA only)",
}
GOALS = (("trainer", "ours", 4.0), ("trainer", "defaults", 4.0), ("padded", "ours", 10.0))
"""A peer, a side of ours, and how many times faster that should be."""


def run(options: Options) -> dict[str, Any]:
    """Seed by seed: ours as blocks, then the scripts one by one; padded and matched ones with the first seed."""
    seeds = [0] if options.quick else list(range(min(SEEDS, options.repetitions)))
    with tempfile.TemporaryDirectory() as folder:
        setting, facts = _setting(options, Path(folder).resolve())
        as_ours = ["--batch-size", str(facts["batch_size"]), *(["--bf16"] if facts["precision"] == "bf16" else [])]
        results: dict[str, Any] = {"seeds": [], "rates": RATES, "jobs": JOBS, **facts, "blocks": []}
        for seed in seeds:
            results["blocks"] += _seed(setting, seed, options, as_ours)
            results["seeds"].append(seed)
            options.keep(results)
    return results


def _seed(setting: Setting, seed: int, options: Options, as_ours: list[str]) -> list[dict[str, Any]]:
    from peftbench.bench import rivals

    def block(side: str, **found: Any) -> dict[str, Any]:
        return {"side": side, "seed": seed, **found}

    def peers(side: str, methods: tuple[str, ...], *more: str) -> dict[str, Any]:
        runs = []
        for method in methods:
            options.say(f"sweep: seed {seed}: {SIDES[side]}: {method}")
            runs.append(rivals.peer(setting, side, method, seed, *more))
        return block(side, seconds=sum(run["seconds"] for run in runs), runs=runs)

    def ours(side: str, *more: str) -> dict[str, Any]:
        options.say(f"sweep: seed {seed}: {SIDES[side]}")
        return block(side, **rivals.ours(setting, f"{side}-{seed}", seed, *more))

    blocks = [ours("ours", f"engine.jobs={JOBS}", ONCE), peers("trainer", tuple(rivals.METHODS))]
    if not options.quick:
        blocks.append(ours("defaults", f"engine.jobs={JOBS}"))
    if seed == 0:
        if not options.quick:
            blocks.append(ours("alone", "engine.jobs=1", ONCE))
        blocks += [peers("matched", ("lora",), *as_ours), peers("padded", PADDED, "--pad-to-max")]
    return blocks


def _setting(options: Options, folder: Path) -> tuple[Setting, dict[str, Any]]:
    """What both sides are given, and how much of it."""
    from peftbench.bench import realdata
    from peftbench.bench.rivals import Setting
    from peftbench.bench.workloads import compose
    from peftbench.context import resolve_device
    from peftbench.measuring import precision

    source = realdata.make_up(folder / "sst2") if options.quick else realdata.find(options, "sst2")
    data: tuple[str, ...] = (f"dataset.train_size={SENTENCES}",)
    model: tuple[str, ...] = ("model=minilm",)
    extra: dict[str, str] = {}
    if options.quick:
        data = ("dataset.train_size=64", "dataset.validation_size=8")
        model = ("model=bert", f"model.path={_tiny(folder / 'model')}", "model.name=tiny", "tracker=none")
        extra = {"OMP_NUM_THREADS": "1"}
    config = compose("dataset=sst2", f"dataset.path={source}", *data, *model)
    text = config.dataset.read()
    realdata.write(folder / "peer", "train", text.train.texts, text.train.labels or [])
    # By id, as our predictions are read: answers are compared item by item.
    dev = sorted(zip(text.evaluation.ids, text.evaluation.texts, text.evaluation.labels or [], strict=True))
    realdata.write(folder / "peer", "validation", [item[1] for item in dev], [item[2] for item in dev])
    facts = {
        "sentences": len(text.train.texts),
        "validation": len(text.validation.texts),
        "dev": len(text.evaluation.texts),
        "fingerprint": text.fingerprint,
        "base": config.model.name,
        "validations": config.trainer.validations,
        "batch_size": config.trainer.batch_size,
        "precision": precision.label(precision.resolve(config.trainer.precision, resolve_device("cpu"))),
    }
    path: str = config.model.source  # type: ignore[attr-defined]  # packaged and local models have one
    return Setting(folder, source, folder / "peer", model, path, RATES, data, extra), facts


def _tiny(folder: Path) -> Path:
    """A tiny network of random weights as ``save_pretrained`` leaves one."""
    from transformers import AutoModel

    from peftbench.bench.workloads import compose

    # bitsandbytes packs weights for the CPU by whole blocks of 64.
    tiny: Any = compose("dataset=movie_reviews", "model=tiny", "model.hidden_size=64").model
    AutoModel.from_config(tiny.config()).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def page(results: dict[str, Any]) -> str:
    """Goals, times, quality, and what is not alike."""
    parts = {
        "Goals": _goals(results),
        "Time": _times(results),
        "Quality": _quality(results),
        "Read with": _notes(results),
    }
    return "\n\n".join([_intro(results), *(f"## {heading}\n\n{text}" for heading, text in parts.items())])


def _intro(results: dict[str, Any]) -> str:
    rates = ", ".join(f"{name} {rate}" for name, rate in results["rates"].items())
    return (
        f"{len(results['rates']) * len(results['seeds'])} runs: {', '.join(results['rates'])} with seeds "
        f"{', '.join(map(str, results['seeds']))}; {results['base']}, {results['sentences']:,} sentences of SST-2 each "
        f"(data {results['fingerprint'][:12]}), one epoch, rank 8 on query and value, learning rates {rates}, "
        f"evaluated on the same {results['dev']} dev sentences. Times are wall clock from the start of a process to "
        "its end, imports and loading in it. Seed by seed: ours (one engine for the four), then the scripts one by "
        "one. The script is `peftbench/bench/trainer_script.py`; plain LoRA stands in for Sparse LoRA, which Trainer "
        "has not."
    )


def _of(results: dict[str, Any], side: str) -> list[dict[str, Any]]:
    return [block for block in results["blocks"] if block["side"] == side]


def each(block: dict[str, Any]) -> float:
    """Seconds a run."""
    return float(block["seconds"]) / len(block["runs"])


def times_faster(results: dict[str, Any], side: str, than: str = "ours") -> list[float]:
    """Seconds a run of a side / those of one of ours, seed by seed."""
    own = {block["seed"]: each(block) for block in _of(results, than)}
    return [each(block) / own[block["seed"]] for block in _of(results, side) if block["seed"] in own]


def _goals(results: dict[str, Any]) -> str:
    rows = []
    for side, own, bound in GOALS:
        if not (found := times_faster(results, side, own)):
            continue
        verdict = markdown.met(median(found) >= bound)
        goal = f"≤ 1/{bound:g} of the time: {SIDES[side]}"
        rows.append([goal, SIDES[own], markdown.ratio(found), markdown.spread(found), verdict])
    return markdown.table(["Goal", "By", "Times faster", "From–to", "Verdict"], rows)


def _times(results: dict[str, Any]) -> str:
    rows = []
    for side, title in SIDES.items():
        blocks = _of(results, side)
        if not blocks:
            continue
        runs = [run for block in blocks for run in block["runs"]]
        found = times_faster(results, side)
        figures = [f"{fmean(map(each, blocks)):.1f}", f"{fmean(run['train_seconds'] for run in runs):.1f}"]
        rows.append([title, str(len(runs)), *figures, markdown.ratio(found), markdown.spread(found)])
    table = markdown.table(["", "Runs measured", "s a run", "of them training", "× ours", "From–to"], rows)
    (padded,) = _of(results, "padded")
    count = len(results["rates"]) * len(results["seeds"])
    note = (
        f"Padded to 128 was measured with seed 0 and {', '.join(PADDED)} only: {count} such runs would take "
        f"{each(padded) * count / 60:.0f} minutes. Training of runs side by side overlaps, so two of ours take less "
        f"than twice the seconds of one. A validation of ours, inside training, is on {results['validation']:,} "
        f"sentences; by default there are {results['validations']}, of which the best is kept. The script evaluates "
        "once, on the dev sentences, and so does ours besides."
    )
    return f"{table}\n\n{note}"


def _quality(results: dict[str, Any]) -> str:
    from peftbench.bench.paired import answers, difference

    columns = ["", "Ours, %", "Trainer, %", "Ours − Trainer, points", "95 % interval", "Within noise"]
    rows = []
    for method in results["rates"]:
        own, other = (
            [run for block in _of(results, side) for run in block["runs"] if run["method"] == method]
            for side in ("ours", "trainer")
        )
        means = [f"{100 * answers(runs).mean():.2f}" for runs in (own, other)]
        rows.append([method, *means, *difference(own, other)])
    every = {side: [run for block in _of(results, side) for run in block["runs"]] for side in SIDES}
    lines = {SIDES[side]: _accuracies(every[side]) for side in ("defaults", "padded", "matched") if every[side]}
    return "\n\n".join([markdown.table(columns, rows), markdown.bullets(lines)])


def _accuracies(runs: list[dict[str, Any]]) -> str:
    from peftbench.bench.paired import answers

    methods = {run["method"]: [one for one in runs if one["method"] == run["method"]] for run in runs}
    return ", ".join(f"{method} {100 * answers(found).mean():.2f} %" for method, found in methods.items())


def _notes(results: dict[str, Any]) -> str:
    return markdown.bullets(
        {
            "Not alike": "each side has its own defaults: batch 8 and fp32 for Trainer, "
            f"{results['batch_size']} and {results['precision']}, which this machine is fastest in, for ours; the row "
            "at our batch size and in our precision shows what is due to that",
            "Ours also does": "validation on sentences held out of train, the choice of a checkpoint, inference timed "
            "unmerged and merged, FLOPs counted, peak memory, predictions of every item, Weights & Biases offline, "
            "table and page",
            "Scripts also do": "a checkpoint every 500 steps and a progress bar, as Trainer does by default; "
            "tokenized texts are kept by `datasets`, as it does by default",
        }
    )
