"""Which items share a batch, and how a batch is padded: to its longest item, which is close to its shortest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

BUCKET_BATCHES = 100
"""Batches within which items are sorted by length: more is less padding and less randomness."""


def batch_rows(lengths: np.ndarray, batch_size: int, seed: int | None) -> list[np.ndarray]:
    """The rows of each batch of one pass; every row is in exactly one batch, and only one batch may be short.

    With a seed, items are shuffled, sorted by length within buckets of `BUCKET_BATCHES` batches, and the batches are
    shuffled. With None, all items are sorted, the longest first, so that what does not fit into memory shows at once.

    Args:
        lengths: int64, shape (items,).
    """
    if seed is None:
        order = np.argsort(-lengths, kind="stable")
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    random = np.random.default_rng([seed, 1])
    order = random.permutation(len(lengths))
    size = BUCKET_BATCHES * batch_size
    buckets = [order[start : start + size] for start in range(0, len(order), size)]
    # A stable sort of shuffled items leaves equal lengths in random order.
    order = np.concatenate([bucket[np.argsort(lengths[bucket], kind="stable")] for bucket in buckets])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def pad(sequences: Sequence[np.ndarray], fill: int) -> torch.Tensor:
    """Sequences filled up on the right: int64, shape (items, longest)."""
    lengths = np.array([len(sequence) for sequence in sequences])
    padded = np.full((len(sequences), int(lengths.max())), fill, np.int64)
    padded[real(lengths)] = np.concatenate(sequences)
    return torch.from_numpy(padded)


def model_inputs(
    sequences: Sequence[np.ndarray], pad_id: int, segments: Sequence[np.ndarray] | None = None
) -> dict[str, torch.Tensor]:
    """``input_ids``, ``attention_mask`` and with segments ``token_type_ids``, int64, shape (items, longest)."""
    lengths = np.array([len(sequence) for sequence in sequences])
    mask = torch.from_numpy(real(lengths).astype(np.int64))
    inputs = {"input_ids": pad(sequences, pad_id), "attention_mask": mask}
    return inputs if segments is None else inputs | {"token_type_ids": pad(segments, 0)}


def real(lengths: np.ndarray) -> np.ndarray:
    """True where a right-padded batch holds a token: bool, shape (items, longest)."""
    return np.arange(int(lengths.max())) < lengths[:, None]
