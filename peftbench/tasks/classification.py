"""Sequence classification: one label an item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from peftbench.tasks import cache
from peftbench.tasks.base import Batch, Encoded, Evaluation, Task
from peftbench.tasks.batching import batch_rows, model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftbench.data.base import Split


@dataclass(frozen=True)
class SequenceClassification(Task):
    """Items are texts, or pairs of them, cut to ``max_length`` tokens, special tokens included.

    Of a pair the longer text is cut first.
    """

    label_names: tuple[str, ...]
    max_length: int
    pad_id: int
    segments: bool = False
    """Whether the network is told which tokens are of the second text of a pair (``token_type_ids``)."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    primary: ClassVar[str] = "quality/accuracy"
    greater_is_better: ClassVar[bool] = True
    peft_type: ClassVar[str | None] = "SEQ_CLS"

    @property
    def config_kwargs(self) -> dict[str, Any]:
        """See `Task.config_kwargs`; decoders find an item's last token by the pad token."""
        return {
            "num_labels": len(self.label_names),
            "id2label": dict(enumerate(self.label_names)),
            "label2id": {name: index for index, name in enumerate(self.label_names)},
            "pad_token_id": self.pad_id,
        }

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, *, train: bool) -> Encoded:
        """See `Task.encode`."""
        recipe: dict[str, Any] = {"task": "classification", "max_length": self.max_length}
        if split.seconds is not None:
            recipe["segments"] = self.segments
        return cache.encoded(split, split.contents, tokenizer, recipe, lambda: self._tokenize(split, tokenizer))

    def _tokenize(self, split: Split, tokenizer: PreTrainedTokenizerBase) -> cache.Ragged:
        segments = self.segments and split.seconds is not None
        found = tokenizer(
            list(split.texts),
            None if split.seconds is None else list(split.seconds),
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=segments,
        )
        # A text without any token (a blank one, without special tokens) still needs a place to read a class from.
        items = [item or [self.pad_id] for item in found["input_ids"]]
        details = getattr(found, "encodings", None) or ()
        truncated = sum(bool(item.overflowing) for item in details)
        kinds = [item or [0] for item in found["token_type_ids"]] if segments else None
        return cache.Ragged.of(items, truncated, kinds)

    def batches(self, data: Encoded, batch_size: int, *, seed: int | None) -> Iterator[Batch]:
        """See `Task.batches`."""
        if data.labels is None:
            raise ValueError("classification needs labels")
        for rows in batch_rows(data.lengths, batch_size, seed):
            items = data.pieces(rows)
            segments = None if data.segments is None else data.pieces(rows, data.segments)
            labels = torch.from_numpy(data.labels[rows])
            yield Batch(model_inputs(items, self.pad_id, segments), labels, rows, sum(map(len, items)))

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task.loss`."""
        logits = model(**batch.arguments).logits
        return nn.functional.cross_entropy(logits.float(), batch.labels)

    def evaluate(self, model: nn.Module, data: Encoded, batch_size: int, device: torch.device) -> Evaluation:
        """See `Task.evaluate`; predictions are in the order of ``data``."""
        parts, rows = [], []
        for batch in self.batches(data, batch_size, seed=None):
            # Left on the device until the end: reading each batch back would wait for it.
            parts.append(model(**batch.to(device).arguments).logits.float())
            rows.append(batch.rows)
        logits = np.empty((len(data), len(self.label_names)), np.float32)
        logits[np.concatenate(rows)] = torch.cat(parts).cpu().numpy()
        predictions = _columns(data, logits)
        return Evaluation(figures(predictions), predictions)


def _columns(data: Encoded, logits: np.ndarray) -> dict[str, np.ndarray]:
    """One row an item; ``loss`` is its cross entropy in nats, float64, computed from the float32 logits beside it."""
    from scipy.special import log_softmax

    labels = np.asarray(data.labels)
    loss = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    columns = {"id": data.ids, "label": labels, "prediction": logits.argmax(axis=1).astype(np.int64)}
    columns |= {f"logit_{index}": logits[:, index] for index in range(logits.shape[1])}
    return columns | {"loss": loss}


def figures(predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The quality figures, from the columns of predictions alone: accuracy, macro F1, MCC and mean loss (nats)."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    labels, guessed = predictions["label"], predictions["prediction"]
    return {
        "quality/accuracy": float(accuracy_score(labels, guessed)),
        # Over the classes that an item has or is taken for: those that are not there cannot be got wrong.
        "quality/f1": float(f1_score(labels, guessed, average="macro", zero_division=0.0)),
        "quality/mcc": float(matthews_corrcoef(labels, guessed)),
        "quality/loss": float(np.mean(predictions["loss"])),
    }
