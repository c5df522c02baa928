"""Causal language modelling: every token from those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch

from peftbench.errors import UserError
from peftbench.tasks import cache
from peftbench.tasks.base import Encoded
from peftbench.tasks.language_modeling import IGNORED, LanguageModeling, corpus_texts, mean_nll, stream

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from peftbench.data.base import Split

PROBED = 64
"""Tokens in which is looked whether answers depend on later ones."""
SAME = 0.01
"""By how much of its largest logit an answer may change that does not: rounding, in bf16."""


@dataclass(frozen=True)
class CausalLM(LanguageModeling):
    """Training: blocks of ``max_length`` tokens. Evaluation: windows of ``max_length`` tokens that move on by
    ``stride``, each scoring only tokens that no earlier window scored.

    An item of the `Encoded` is what its window scores. The window holds as many tokens before it as fit, so a block
    of ``max_length`` has none, and ``max_length - stride`` come before a stride (``1 <= stride < max_length``). In
    evaluation every token is scored once but the very first of the corpus, which has nothing before it; in training
    the first token of a block is not.
    """

    stride: int

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    primary: ClassVar[str] = "quality/perplexity"
    greater_is_better: ClassVar[bool] = False
    peft_type: ClassVar[str | None] = "CAUSAL_LM"

    @property
    def note(self) -> str:
        """See `Task.note`: the windows."""
        return f"perplexity: windows of {self.max_length:,} tokens move on by {self.stride:,} (dataset.stride)"

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, *, train: bool) -> Encoded:
        """See `Task.encode`; ids number the windows."""
        step = self.max_length if train else self.stride
        texts = corpus_texts(split, tokenizer, self.unk_literal)
        recipe = {"task": "causal_lm", "max_length": self.max_length, "step": step}

        def make() -> cache.Ragged:
            flat = stream(texts, tokenizer)
            return cache.Ragged(flat, _bounds(len(flat), self.max_length, step))

        return cache.encoded(split, texts, tokenizer, recipe, make, blocks=True)

    def window(self, data: Encoded, row: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
        """See `LanguageModeling.window`: position t predicts token t + 1, and nothing predicts the first."""
        start, end = int(data.offsets[row]), int(data.offsets[row + 1])
        first = max(0, end - self.max_length)
        tokens = data.tokens[first:end].astype(np.int64)
        labels = np.append(tokens[1:], IGNORED)
        labels[: max(0, start - first - 1)] = IGNORED
        return tokens, labels

    def check(self, model: nn.Module, data: Encoded, device: torch.device) -> None:
        """See `Task.check`: what is answered at a token may not change with those after it.

        In XLNet it does, and in BERT's decoders unless their configuration says that they are ones. Most positions
        decide, not the one where rounding made a mixture of experts choose another expert.
        """
        tokens = torch.from_numpy(self.window(data, 0, None)[0])[:PROBED]
        half = len(tokens) // 2
        other = torch.cat([tokens[:half], (tokens[half:] - 1).abs()])  # another token each, and one that there is
        first, second = model(input_ids=torch.stack([tokens, other]).to(device)).logits[:, :half].float()
        moved = (first - second).abs().amax(-1) > SAME * first.abs().amax(-1)
        if moved.float().mean() > 0.5:
            name = cast(Any, model).config.model_type
            raise UserError(
                f"{name} sees the tokens that it is to predict, so its perplexity would mean nothing: choose a causal "
                'model, or where it can be one write "is_decoder": true into its config.json'
            )

    def figures(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Perplexity = exp(total negative log likelihood / tokens), and that mean in nats."""
        mean = mean_nll(predictions)
        return {"quality/perplexity": math.exp(mean) if mean < 700 else math.inf, "quality/loss": mean}


def _bounds(count: int, first: int, step: int) -> np.ndarray:
    """Cuts of ``count`` tokens into a first item and items of ``step``: int64, from 0 to ``count``."""
    return np.array([0, *range(first, count, step), count], np.int64)
