"""Masked language modelling: hidden tokens from those on both sides (Devlin et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from peftbench.tasks import cache
from peftbench.tasks.base import Encoded
from peftbench.tasks.language_modeling import IGNORED, LanguageModeling, corpus_texts, mean_nll, stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftbench.data.base import Split

MASKED, REPLACED, KEPT = 0.8, 0.1, 0.1
"""What happens to a token that is to be predicted: hidden, another one put there, or left."""


@dataclass(frozen=True)
class MaskedLM(LanguageModeling):
    """Blocks of at most ``max_length`` tokens, with the tokenizer's start and end tokens.

    Of each block ``max(1, round(0.15 * n))`` of its n ordinary tokens are predicted; special tokens, the unknown
    token among them, never are. In training the choice is new with every seed; in evaluation it follows from
    ``mask_seed`` and the block's number, so every run and every batch size sees the same mask.
    """

    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int
    mask_seed: int
    probability: float = 0.15

    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    primary: ClassVar[str] = "quality/mlm_loss"
    greater_is_better: ClassVar[bool] = False
    peft_type: ClassVar[str | None] = None

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, *, train: bool) -> Encoded:
        """See `Task.encode`; ids number the blocks."""
        texts = corpus_texts(split, tokenizer, self.unk_literal)
        recipe = {"task": "masked_lm", "max_length": self.max_length}

        def make() -> cache.Ragged:
            ends = [token for token in (tokenizer.cls_token_id, tokenizer.sep_token_id) if token is not None]
            head, tail = ends[:1], ends[1:]
            flat = stream(texts, tokenizer)
            room = self.max_length - len(ends)
            pieces = [flat[start : start + room] for start in range(0, len(flat), room)]
            return cache.Ragged.of([[*head, *piece.tolist(), *tail] for piece in pieces])

        return cache.encoded(split, texts, tokenizer, recipe, make, blocks=True)

    def window(self, data: Encoded, row: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
        """See `LanguageModeling.window`; labels are the true tokens where one is to be predicted."""
        truth = data.tokens[data.offsets[row] : data.offsets[row + 1]].astype(np.int64)
        stream_of = [self.mask_seed, 2, row] if seed is None else [seed, 3, row]
        random = np.random.default_rng(stream_of)
        candidates = np.flatnonzero(~np.isin(truth, self.special_ids))
        count = min(len(candidates), max(1, round(self.probability * len(candidates))))
        chosen = random.permutation(candidates)[:count]
        tokens, labels = truth.copy(), np.full_like(truth, IGNORED)
        labels[chosen] = truth[chosen]
        fate = random.random(count)
        tokens[chosen[fate < MASKED]] = self.mask_id
        replaced = chosen[(fate >= MASKED) & (fate < MASKED + REPLACED)]
        tokens[replaced] = random.choice(_ordinary(self.vocab_size, self.special_ids), size=len(replaced))
        return tokens, labels

    def figures(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nats a masked token, and their exponential, which is not comparable with a causal model's perplexity."""
        mean = mean_nll(predictions)
        return {"quality/mlm_loss": mean, "quality/mlm_pseudo_perplexity": math.exp(mean) if mean < 700 else math.inf}


@lru_cache(maxsize=8)
def _ordinary(vocab_size: int, special_ids: tuple[int, ...]) -> np.ndarray:
    """Ids that may be put in place of another, int64."""
    return np.setdiff1d(np.arange(vocab_size), special_ids)
