"""Whether a network knows all tokens that its tokenizer gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.tasks.base import Encoded


def check(name: str, splits: Iterable[Encoded], model: Any) -> None:
    """Compare the largest token of all splits with the rows of the network's embedding.

    Raises:
        UserError: they do not fit; on a GPU such a token would end the process with a message about something else.
    """
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:
        return  # CANINE hashes characters
    if not isinstance(embedding, nn.Embedding):
        return
    most = max(int(split.tokens.max(initial=0)) for split in splits)
    if most >= embedding.num_embeddings:
        raise UserError(
            f"model={name}: the tokenizer gives token {most:,}, and the network has {embedding.num_embeddings:,} of "
            "them: they do not belong together; write a folder that holds a network with its own tokenizer"
        )
