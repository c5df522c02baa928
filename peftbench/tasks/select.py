"""Which task a dataset and a network make together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.errors import UserError
from peftbench.tasks.base import Task
from peftbench.tasks.causal_lm import CausalLM
from peftbench.tasks.classification import SequenceClassification
from peftbench.tasks.masked_lm import MaskedLM

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from peftbench.data.base import Dataset, TextData

POSITIONS_AFTER_PAD = (
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
"""Architectures whose positions are counted from the pad token's id + 1, which shortens what they take."""
SUMMARIZING = ("flaubert", "xlm", "xlnet")
"""Architectures whose classifier obeys ``summary_type``; others have such a field and pay it no heed."""


def task_for(
    dataset: Dataset, data: TextData, tokenizer: PreTrainedTokenizerBase, model_config: PretrainedConfig
) -> Task:
    """The task for ``data``: its kind says classes or language, the architecture says masked or causal.

    Raises:
        UserError: the network takes fewer tokens than ``dataset.max_length``, it would classify by what is padding,
            or an option has no meaning here.
    """
    pad_id = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    _check_length(dataset.max_length, model_config, pad_id)
    if dataset.kind == "classification":
        _check_reads_tokens(model_config)
        segments = data.train.seconds is not None and _tells_texts_apart(tokenizer, model_config)
        return SequenceClassification(data.label_names, dataset.max_length, pad_id, segments)
    stride: int | None = getattr(dataset, "stride", None)
    unk_literal: str | None = getattr(dataset, "unk_literal", None)
    if not is_masked(model_config):
        return CausalLM(dataset.max_length, pad_id, unk_literal, stride or dataset.max_length // 2)
    if stride is not None:
        raise UserError(
            f"dataset.stride={stride} means nothing for a masked model such as {model_config.model_type}: "
            "write dataset.stride=null"
        )
    # A tokenizer may have tokens that were added to it alone.
    known = min(len(tokenizer), getattr(model_config, "vocab_size", None) or len(tokenizer))
    if tokenizer.mask_token_id is None or tokenizer.mask_token_id >= known:
        raise UserError(
            f"the tokenizer of this {model_config.model_type} has no mask token that the network knows: choose another "
            "model"
        )
    return MaskedLM(
        dataset.max_length,
        pad_id,
        unk_literal,
        mask_id=int(tokenizer.mask_token_id),
        special_ids=tuple(sorted(tokenizer.all_special_ids)),
        vocab_size=known,
        mask_seed=dataset.split_seed,
    )


def _check_reads_tokens(model_config: PretrainedConfig) -> None:
    """Raise a UserError if the classifier reads positions whatever is there: of XLNet the last one."""
    summary = getattr(model_config, "summary_type", None)
    if model_config.model_type in SUMMARIZING and summary != "first":
        raise UserError(
            f"this {model_config.model_type} classifies by other positions than the first (summary_type={summary}), "
            "padding among them: choose another model"
        )


def _tells_texts_apart(tokenizer: PreTrainedTokenizerBase, model_config: PretrainedConfig) -> bool:
    # A network with one kind of tokens has no row for a second (RoBERTa), whatever its tokenizer says.
    return "token_type_ids" in tokenizer.model_input_names and getattr(model_config, "type_vocab_size", 0) > 1


def is_masked(model_config: PretrainedConfig) -> bool:
    """Whether transformers has a masked language model of this architecture."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model_config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _check_length(max_length: int, model_config: PretrainedConfig, pad_id: int) -> None:
    """Raise a UserError if the network has fewer positions than ``max_length``."""
    limit = getattr(model_config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return
    limit -= pad_id + 1 if model_config.model_type in POSITIONS_AFTER_PAD else 0
    if 0 < limit < max_length:
        raise UserError(
            f"dataset.max_length={max_length} is more than this {model_config.model_type} takes: "
            f"write dataset.max_length={limit} or less"
        )
