"""What causal and masked language modelling share: a corpus in one piece, and windows over it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np
import torch
from torch import nn

from peftbench.errors import UserError
from peftbench.tasks import token_loss
from peftbench.tasks.base import Batch, Encoded, Evaluation, Task
from peftbench.tasks.batching import batch_rows, model_inputs, pad

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftbench.data.base import Split

IGNORED = -100
"""The label of a position at which nothing is predicted."""
_CHANGED: WeakSet[nn.Module] = WeakSet()
"""Output layers whose network does something to what they answer (Gemma 2 caps it, BART adds a bias to it) or takes
their weights itself (MobileBERT), so that logits are needed."""


@dataclass(frozen=True)
class LanguageModeling(Task):
    """Items are windows of at most ``max_length`` tokens over the concatenated corpus."""

    max_length: int
    pad_id: int
    unk_literal: str | None
    """Text that stands for an unknown word in this corpus (WikiText's ``<unk>``)."""

    @abstractmethod
    def window(self, data: Encoded, row: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
        """What the model sees of an item and what each position must say: token ids and labels, int64, shape
        (length,) each; `IGNORED` where nothing is predicted."""

    def batches(self, data: Encoded, batch_size: int, *, seed: int | None) -> Iterator[Batch]:
        """See `Task.batches`."""
        for rows in batch_rows(data.lengths, batch_size, seed):
            windows = [self.window(data, int(row), seed) for row in rows]
            inputs = model_inputs([tokens for tokens, _ in windows], self.pad_id)
            labels = pad([labels for _, labels in windows], IGNORED)
            positions = torch.nonzero(labels.flatten() != IGNORED).flatten()
            yield Batch(inputs, labels, rows, sum(len(tokens) for tokens, _ in windows), positions)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task.loss`: the mean over predicted tokens."""
        losses = predicted_losses(model, batch)
        # Not the mean: it would be NaN where nothing is predicted.
        return losses.sum() / max(1, len(losses))

    def evaluate(self, model: nn.Module, data: Encoded, batch_size: int, device: torch.device) -> Evaluation:
        """See `Task.evaluate`: one row a window, with its predicted tokens and their summed nats."""
        nll = np.zeros(len(data), np.float64)
        tokens = np.zeros(len(data), np.int64)
        for batch in self.batches(data, batch_size, seed=None):
            losses = predicted_losses(model, batch.to(device)).cpu().double()  # some devices have no float64
            tokens[batch.rows] = counts = (batch.labels != IGNORED).sum(dim=1).numpy()
            nll[batch.rows] = [float(window.sum()) for window in losses.split(counts.tolist())]
        predictions = {"id": data.ids, "tokens": tokens, "nll": nll}
        return Evaluation(self.figures(predictions), predictions)

    @abstractmethod
    def figures(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The quality figures, from the columns of predictions alone."""


def predicted_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross entropy (nats, float32 at least) of every token that is predicted, shape (predicted,).

    The output layer is as wide as the vocabulary: for masked language modelling it would be half of a small network's
    work, most of it at positions that nobody asks. So it is given only those that are scored, and where it is frozen
    its logits are not kept (see `token_loss`).
    """
    assert batch.positions is not None
    positions = batch.positions
    targets = batch.labels.flatten().index_select(0, positions)
    if hasattr(model, "_orig_mod"):  # torch.compile would keep the hook of its first batch
        logits = model(**batch.arguments).logits.flatten(0, 1).index_select(0, positions)
        return _cross_entropy(logits, targets)
    seen: list[torch.Tensor] = []

    def select(_: nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        seen.append(arguments[0].flatten(0, 1).index_select(0, positions))
        return (seen[-1],)

    output_layer: nn.Module = model.get_output_embeddings()  # type: ignore[operator]  # of every transformers LM
    with output_layer.register_forward_pre_hook(select):
        if output_layer not in _CHANGED and token_loss.fits(output_layer):
            answer = _passed_through(model, batch, output_layer)
            if seen and answer is seen[0]:
                return token_loss.token_losses(output_layer, answer, targets)
            _CHANGED.add(output_layer)
        logits = model(**batch.arguments).logits
    return _cross_entropy(logits if seen else logits.flatten(0, 1).index_select(0, positions), targets)


def _passed_through(model: nn.Module, batch: Batch, output_layer: nn.Module) -> torch.Tensor | None:
    """What the network makes of the hidden states that its output layer is given, or None where it cannot."""
    try:
        with token_loss.passed_through(output_layer):
            logits: torch.Tensor = model(**batch.arguments).logits
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # it adds what is as wide as the vocabulary; any other error comes again with the whole logits
        return None
    return logits


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return nn.functional.cross_entropy(logits.to(wide), targets, reduction="none")


def mean_nll(predictions: Mapping[str, np.ndarray]) -> float:
    """Nats a predicted token, over all windows together."""
    return float(predictions["nll"].sum() / predictions["tokens"].sum())


def corpus_texts(split: Split, tokenizer: PreTrainedTokenizerBase, unk_literal: str | None) -> list[str]:
    """The items as they are tokenized: a newline after each, unknown words as the tokenizer writes them.

    A nominal unknown token that is also the end of text (GPT-2) would tell the model something false; there the
    literal stays text.
    """
    texts = [text if text.endswith("\n") else f"{text}\n" for text in split.texts]
    unknown = tokenizer.unk_token_id
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if unk_literal is None or unknown is None or unknown in ends:
        return texts
    return [text.replace(unk_literal, str(tokenizer.unk_token)) for text in texts]


def stream(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The concatenated corpus without special tokens: int32, shape (tokens,).

    Raises:
        UserError: there are fewer than two tokens.
    """
    found = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    flat = np.fromiter((token for item in found["input_ids"] for token in item), np.int32)
    if len(flat) < 2:
        raise UserError("the corpus has fewer than two tokens: write larger sizes, or give more text")
    return flat
