"""Dataset and architecture decide the task."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from peftbench.data.base import Split, TextData
from peftbench.data.sst2 import Sst2
from peftbench.data.wikitext2 import Wikitext2
from peftbench.errors import UserError
from peftbench.tasks.causal_lm import CausalLM
from peftbench.tasks.classification import SequenceClassification
from peftbench.tasks.masked_lm import MaskedLM
from peftbench.tasks.select import task_for

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


@pytest.mark.parametrize(("stride", "expected"), [(None, 32), (10, 10)])
def test_causal_language(tokenizer, stride, expected):
    dataset = Wikitext2(name="wikitext2", max_length=64, stride=stride, variant="raw")
    task = task_for(dataset, DATA, tokenizer, AutoConfig.for_model("gpt2"))
    assert task == CausalLM(64, 0, None, expected)
    assert (task.peft_type, task.primary, task.greater_is_better) == ("CAUSAL_LM", "quality/perplexity", False)


def test_options_without_a_meaning_are_answered(tokenizer):
    with pytest.raises(UserError, match=r"dataset.stride=10 means nothing .* write dataset.stride=null"):
        task_for(Wikitext2(name="wikitext2", stride=10), DATA, tokenizer, AutoConfig.for_model("bert"))
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="has no mask token"):
        task_for(Wikitext2(name="wikitext2"), DATA, tokenizer, AutoConfig.for_model("bert"))


@pytest.mark.parametrize(("architecture", "limit"), [("bert", 40), ("distilbert", 40), ("gpt2", 40), ("roberta", 39)])
def test_a_length_the_network_cannot_take_is_answered(tokenizer, architecture, limit):
    name = "n_positions" if architecture == "gpt2" else "max_position_embeddings"
    config = AutoConfig.for_model(architecture, **{name: 40})
    task_for(Sst2(name="sst2", max_length=limit), DATA, tokenizer, config)
    with pytest.raises(UserError, match=f"write dataset.max_length={limit} or less"):
        task_for(Sst2(name="sst2", max_length=limit + 1), DATA, tokenizer, config)
