"""What a task is: how text becomes batches, a loss, figures and predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from peftbench.data.base import Split


@dataclass(frozen=True)
class Encoded:
    """Token ids of a split, ragged: item ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: np.ndarray
    """int32, shape (total tokens,)."""
    offsets: np.ndarray
    """int64, shape (items + 1,)."""
    labels: np.ndarray | None
    """int64, shape (items,), or None."""
    ids: np.ndarray
    """int64, shape (items,): see `Split.ids`."""
    from_cache: bool
    truncated: int = 0
    """Items that were cut to the maximum length."""
    segments: np.ndarray | None = None
    """For pairs in networks that tell their texts apart, int8, shape (total tokens,): 0 in the first one, 1 in the
    second (``token_type_ids``)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, int64, shape (items,)."""
        return self.offsets[1:] - self.offsets[:-1]

    def pieces(self, rows: np.ndarray, of: np.ndarray | None = None) -> list[np.ndarray]:
        """The tokens of each of ``rows``, or what ``of`` holds for them."""
        flat = self.tokens if of is None else of
        return [flat[self.offsets[row] : self.offsets[row + 1]] for row in rows]

    def take(self, rows: np.ndarray) -> Encoded:
        """The items at ``rows``, int64, in that order."""
        import numpy as np

        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        labels = None if self.labels is None else self.labels[rows]
        segments = None if self.segments is None else np.concatenate(self.pieces(rows, self.segments))
        tokens = np.concatenate(self.pieces(rows))
        return replace(self, tokens=tokens, offsets=offsets, labels=labels, ids=self.ids[rows], segments=segments)


@dataclass
class Batch:
    """One padded batch on its way to the model."""

    inputs: dict[str, torch.Tensor]
    """Keyword arguments of the model without labels: input_ids, attention_mask and for pairs perhaps token_type_ids,
    int64, shape (items, length)."""
    labels: torch.Tensor
    """int64: (items,) classes, or (items, length): what each position must say, -100 where nothing is predicted."""
    rows: np.ndarray
    """Positions of the items in the `Encoded` they came from, int64, shape (items,)."""
    real_tokens: int
    """Tokens that are not padding."""
    positions: torch.Tensor | None = None
    """Where something is predicted, as positions in the flattened labels: int64, shape (predicted,). None: one class
    an item. They are found on the CPU, because to ask a GPU for them is to wait for it."""

    @property
    def computed_tokens(self) -> int:
        """Tokens the network computes, padding included."""
        return int(self.inputs["input_ids"].numel())

    @property
    def arguments(self) -> dict[str, torch.Tensor]:
        """``inputs`` as the network is given them: without a mask where there is no padding.

        transformers would ask the mask for it, and so wait for a GPU at every step; here it is known beforehand.
        """
        padded = self.real_tokens < self.computed_tokens
        return {name: value for name, value in self.inputs.items() if padded or name != "attention_mask"}

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``; CUDA is not waited for."""
        moved = {name: _moved(value, device) for name, value in self.inputs.items()}
        positions = None if self.positions is None else _moved(self.positions, device)
        return Batch(moved, _moved(self.labels, device), self.rows, self.real_tokens, positions)


def _moved(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    # From pageable memory CUDA copies more than 64 KB only after all that was begun before is done.
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one pass over a split, and what each of them can be recomputed from."""

    metrics: dict[str, float]
    """Names and units as in the glossary: ``quality/accuracy``, ``quality/loss``, ..."""
    predictions: dict[str, np.ndarray]
    """Columns of equal length, one row an item: ``id``, ``label``, ``prediction``, ``logit_0``, ... for classes."""


class Task(ABC):
    """How one kind of data is learned by one kind of network."""

    auto_class: ClassVar[str]
    """The transformers class that loads the network, e.g. ``AutoModelForSequenceClassification``."""
    primary: ClassVar[str]
    """The metric that selects a checkpoint, e.g. ``quality/accuracy``."""
    greater_is_better: ClassVar[bool]
    peft_type: ClassVar[str | None]
    """PEFT's task type (``SEQ_CLS``, ``CAUSAL_LM``) or None where it has none."""

    @property
    def config_kwargs(self) -> dict[str, Any]:
        """Extra fields of the network's config (``num_labels``, ``id2label``)."""
        return {}

    @property
    def note(self) -> str:
        """What a reader must know of how its figures are measured; empty where there is nothing."""
        return ""

    @abstractmethod
    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, *, train: bool) -> Encoded:
        """Tokenize a split, from the cache where the same content met the same tokenizer before."""

    @abstractmethod
    def batches(self, data: Encoded, batch_size: int, *, seed: int | None) -> Iterator[Batch]:
        """One pass over ``data`` on the CPU. With a seed: shuffled and bucketed by length; with None: evaluation
        order (free to sort by length; `Batch.rows` says which items these are)."""

    def steps_per_epoch(self, data: Encoded, batch_size: int) -> int:
        """How many batches one pass has, of which the last may be short."""
        return -(-len(data) // batch_size)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross entropy (nats) of a batch, a scalar with a graph."""

    def check(self, model: nn.Module, data: Encoded, device: torch.device) -> None:  # noqa: B027  # few have to
        """Look whether ``model`` can be learned this way; the caller has set eval mode, no_grad and autocast.

        Raises:
            UserError: its figures would mean something else than they say.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, data: Encoded, batch_size: int, device: torch.device) -> Evaluation:
        """All figures and predictions over ``data``; the caller has set eval mode, no_grad and autocast."""
