"""Whether a network knows all tokens that its tokenizer gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from peftbench.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from peftbench.tasks.base import Encoded


def check_pad(name: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Compare the pad token with the rows that the network will have: it comes into batches only, long after `check`.

    Raises:
        UserError: there is no row for it, as where one was added to the tokenizer alone.
    """
    rows, pad = getattr(config.get_text_config(), "vocab_size", None), tokenizer.pad_token_id
    if isinstance(rows, int) and pad is not None and pad >= rows:
        raise UserError(
            f"model={name}: the tokenizer pads with token {pad:,} ({tokenizer.pad_token}), and the network has "
            f"{rows:,} of them: save the network again after model.resize_token_embeddings(len(tokenizer)), or the "
            "tokenizer after tokenizer.pad_token = None, so that its end-of-text token pads"
        )


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
