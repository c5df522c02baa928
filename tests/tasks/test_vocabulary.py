"""A tokenizer and a network that do not belong together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn
from transformers import AutoConfig

from peftbench.errors import UserError
from peftbench.tasks import vocabulary


class Network(nn.Module):
    def __init__(self, embedding: nn.Module | None) -> None:
        super().__init__()
        self.embedding = embedding

    def get_input_embeddings(self) -> nn.Module:
        if self.embedding is None:
            raise NotImplementedError("as in CANINE, which hashes characters")
        return self.embedding


def splits(*most: int) -> list[Any]:
    return [SimpleNamespace(tokens=np.arange(token + 1, dtype=np.int32)) for token in most]


def test_the_largest_token_of_all_splits_decides() -> None:
    network = Network(nn.Embedding(10, 2))
    vocabulary.check("bert", splits(3, 9, 0), network)
    with pytest.raises(UserError, match="model=bert: the tokenizer gives token 10, and the network has 10 of them"):
        vocabulary.check("bert", splits(3, 0, 10), network)


@pytest.mark.parametrize("embedding", [None, nn.Linear(2, 2)])
def test_a_network_without_a_table_of_tokens_is_not_asked(embedding: nn.Module | None) -> None:
    vocabulary.check("canine", splits(2**20), Network(embedding))


def test_a_pad_token_must_be_one_of_the_networks(tokenizer: Any) -> None:
    assert (len(tokenizer), tokenizer.pad_token_id) == (65, 0)
    config = AutoConfig.for_model("gpt2", vocab_size=65)
    vocabulary.check_pad("gpt2", tokenizer, config)
    vocabulary.check_pad("canine", tokenizer, AutoConfig.for_model("canine"))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(
        UserError, match=r"model=gpt2: the tokenizer pads with token 65 \(<pad>\), and .* 65 of them: save"
    ):
        vocabulary.check_pad("gpt2", tokenizer, config)
    vocabulary.check_pad("canine", tokenizer, AutoConfig.for_model("canine"))
    vocabulary.check_pad("gpt2", tokenizer, AutoConfig.for_model("gpt2", vocab_size=66))
    tokenizer.pad_token = None
    vocabulary.check_pad("gpt2", tokenizer, config)
