"""What a run learns and is measured by: a data set, tokenized for its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.data.check import check
from peftbench.data.splits import fingerprint
from peftbench.tasks import vocabulary

if TYPE_CHECKING:
    from peftbench.context import Context
    from peftbench.data.base import TextData
    from peftbench.tasks.base import Encoded, Task


@dataclass
class Data:
    """A dataset as one network sees it."""

    text: TextData
    task: Task
    train: Encoded
    validation: Encoded
    evaluation: Encoded


def prepare(context: Context) -> Data:
    """Read and tokenize the three splits.

    Raises:
        UserError: they cannot be read or are not what splits must be, or the network does not fit them.
    """
    from peftbench.tasks.select import task_for

    run, record = context.run, context.record
    context.on_progress("reading", 0, 0)
    with context.clock("load"):
        text = run.dataset.read()
        check(run.dataset, text)
        tokenizer = run.model.tokenizer()
        config = run.model.config()
        vocabulary.check_pad(run.model.name, tokenizer, config)
        task = task_for(run.dataset, text, tokenizer, config)
    context.on_progress("tokenizing", 0, 0)
    with context.clock("tokenize"):
        train = task.encode(text.train, tokenizer, train=True)
        validation = task.encode(text.validation, tokenizer, train=False)
        evaluation = task.encode(text.evaluation, tokenizer, train=False)
    cut = _truncated(run.dataset.max_length, {"train": train, "evaluation": evaluation})
    notes = [*text.notes, *cut, *filter(None, (task.note,))]
    splits = {"train": (text.train, train), "validation": (text.validation, validation)}
    splits["evaluation"] = (text.evaluation, evaluation)
    record.data |= {
        "fingerprint": text.fingerprint,
        "label_names": list(text.label_names),
        "notes": notes,
        "evaluation_fingerprint": fingerprint(text.evaluation),
        "splits": {key: {"name": split.name, "size": len(encoded)} for key, (split, encoded) in splits.items()},
        "tokens_from_cache": train.from_cache and validation.from_cache and evaluation.from_cache,
    }
    return Data(text, task, train, validation, evaluation)


def _truncated(most: int, splits: Mapping[str, Encoded]) -> list[str]:
    """What a reader must know of texts that are longer than what is read of them."""
    return [
        f"{name}: {split.truncated:,} of {len(split):,} texts are cut to {most} tokens (dataset.max_length)"
        for name, split in splits.items()
        if split.truncated
    ]
