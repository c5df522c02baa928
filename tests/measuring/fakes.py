"""The smallest task and data that the measuring code can work with."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from peftbench.tasks.base import Batch, Encoded, Evaluation, Task


def batch_of(lengths: list[int], width: int | None = None) -> Batch:
    """Items of these lengths, padded to the longest (or to ``width``)."""
    width = width or max(lengths)
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    inputs = {"input_ids": mask.clone(), "attention_mask": mask}
    return Batch(inputs, torch.zeros(len(lengths), dtype=torch.long), np.arange(len(lengths)), sum(lengths))


def encoded(lengths: list[int]) -> Encoded:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    rows = np.arange(len(lengths))
    return Encoded(tokens, offsets, np.zeros(len(lengths), np.int64), rows, False)


class FakeTask(Task):
    """Batches sorted by length; the loss is the sum of the model's output."""

    auto_class, primary, greater_is_better, peft_type = "", "", True, None

    def encode(self, split, tokenizer, *, train) -> Encoded:
        raise NotImplementedError

    def batches(self, data: Encoded, batch_size: int, *, seed: int | None) -> Iterator[Batch]:
        order = np.argsort(data.lengths, kind="stable")
        for first in range(0, len(data), batch_size):
            rows = order[first : first + batch_size]
            batch = batch_of([int(data.lengths[row]) for row in rows])
            batch.rows = rows
            yield batch

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return model(**batch.inputs).sum()

    def evaluate(self, model, data, batch_size, device) -> Evaluation:
        raise NotImplementedError
