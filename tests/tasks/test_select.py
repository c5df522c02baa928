"""Dataset and architecture decide the task."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from peftbench.data.base import Split, TextData
from peftbench.data.sst2 import Sst2
from peftbench.data.wikitext2 import Wikitext2
from peftbench.errors import UserError
from peftbench.tasks.causal_lm import CausalLM
from peftbench.tasks.classification import SequenceClassification
from peftbench.tasks.masked_lm import MaskedLM
from peftbench.tasks.select import POSITIONS_AFTER_PAD, task_for

EMPTY = Split("train", [], [], [])
DATA = TextData(EMPTY, EMPTY, EMPTY, ("negative", "positive"), "0")


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2"])
def test_classes(tokenizer, architecture):
    task = task_for(Sst2(name="sst2", max_length=64), DATA, tokenizer, AutoConfig.for_model(architecture))
    assert task == SequenceClassification(("negative", "positive"), 64, 0)
    assert (task.peft_type, task.primary, task.greater_is_better) == ("SEQ_CLS", "quality/accuracy", True)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])
def test_masked_language(tokenizer, architecture):
    dataset = Wikitext2(name="wikitext2", max_length=64, split_seed=5)
    task = task_for(dataset, DATA, tokenizer, AutoConfig.for_model(architecture))
    assert task == MaskedLM(64, 0, "<unk>", 4, (0, 1, 2, 3, 4), 65, 5)
    assert (task.peft_type, task.primary, task.greater_is_better) == (None, "quality/mlm_loss", False)


def test_words_are_replaced_by_those_that_the_network_knows(tokenizer):
    tokenizer.add_tokens(["one", "two"])
    task = task_for(Wikitext2(name="wikitext2"), DATA, tokenizer, AutoConfig.for_model("bert", vocab_size=66))
    assert (len(tokenizer), task.vocab_size) == (67, 66)


@pytest.mark.parametrize(("stride", "expected"), [(None, 32), (10, 10)])
def test_causal_language(tokenizer, stride, expected):
    dataset = Wikitext2(name="wikitext2", max_length=64, stride=stride, variant="raw")
    task = task_for(dataset, DATA, tokenizer, AutoConfig.for_model("gpt2"))
    assert task == CausalLM(64, 0, None, expected)
    assert task.note == f"perplexity: windows of 64 tokens move on by {expected} (dataset.stride)"
    assert (task.peft_type, task.primary, task.greater_is_better) == ("CAUSAL_LM", "quality/perplexity", False)


def test_options_without_a_meaning_are_answered(tokenizer):
    with pytest.raises(UserError, match=r"dataset.stride=10 means nothing .* write dataset.stride=null"):
        task_for(Wikitext2(name="wikitext2", stride=10), DATA, tokenizer, AutoConfig.for_model("bert"))
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    with pytest.raises(UserError, match="has no mask token that the network knows"):
        task_for(Wikitext2(name="wikitext2"), DATA, tokenizer, AutoConfig.for_model("bert", vocab_size=65))
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="has no mask token"):
        task_for(Wikitext2(name="wikitext2"), DATA, tokenizer, AutoConfig.for_model("bert"))


def test_a_classifier_of_the_last_position_is_refused(tokenizer):
    """Shown on XLNet itself: what it says of a text depends on how far the batch is padded."""
    config = AutoConfig.for_model("xlnet", vocab_size=65, d_model=32, n_layer=1, n_head=2, d_inner=64)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    alone, padded = torch.tensor([[7, 8, 9]]), torch.tensor([[7, 8, 9, 0, 0]])
    with torch.no_grad():
        logits = [model(input_ids=ids, attention_mask=(ids > 0).long()).logits for ids in (alone, padded)]
    assert not torch.allclose(*logits, atol=1e-3)
    with pytest.raises(UserError, match=r"this xlnet classifies by other positions .*summary_type=last"):
        task_for(Sst2(name="sst2"), DATA, tokenizer, config)


@pytest.mark.parametrize(("architecture", "summary"), [("xlm", "first"), ("flaubert", "first"), ("gpt2", "last")])
def test_a_classifier_of_a_text_is_not_refused(tokenizer, architecture, summary):
    """The first position is never padding, and GPT-2 classifies by the last token whatever the field says."""
    task_for(Sst2(name="sst2"), DATA, tokenizer, AutoConfig.for_model(architecture, summary_type=summary))


@pytest.mark.parametrize(
    ("architecture", "limit"),
    [("bert", 40), ("distilbert", 40), ("gpt2", 40), ("roberta", 39), ("roberta-prelayernorm", 39), ("xmod", 39)],
)
def test_a_length_the_network_cannot_take_is_answered(tokenizer, architecture, limit):
    name = "n_positions" if architecture == "gpt2" else "max_position_embeddings"
    config = AutoConfig.for_model(architecture, **{name: 40})
    task_for(Sst2(name="sst2", max_length=limit), DATA, tokenizer, config)
    with pytest.raises(UserError, match=f"write dataset.max_length={limit} or less"):
        task_for(Sst2(name="sst2", max_length=limit + 1), DATA, tokenizer, config)


@pytest.mark.parametrize("architecture", POSITIONS_AFTER_PAD)
def test_positions_after_the_pad_token_are_the_networks(architecture):
    """At the limit that is said the network runs, and one token more is too many."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    shape |= {"vocab_size": 65, "pad_token_id": 1, "max_position_embeddings": 42}
    special = {"longformer": {"attention_window": [4]}, "xmod": {"default_language": "en_XX"}}
    config = AutoConfig.for_model(architecture, **shape, **special.get(architecture, {}))
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        model(input_ids=torch.full((1, 40), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 41), 7))
