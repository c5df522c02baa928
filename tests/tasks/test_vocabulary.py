"""A tokenizer and a network that do not belong together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

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
