"""Pairs of texts: as transformers' tokenizer and network have them, whatever the batches and the cache."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from peftbench.data.base import Split, TextData
from peftbench.data.text import Text
from peftbench.tasks.classification import SequenceClassification
from peftbench.tasks.select import task_for

TASK = SequenceClassification(("no", "yes"), 16, 0, segments=True)


@pytest.fixture
def tokenizer(tokenizer):
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def pairs(count: int = 30) -> Split:
    rng = random.Random(0)
    texts = [[" ".join(f"w{rng.randrange(60)}" for _ in range(rng.randint(1, 14))) for _ in range(count)] for _ in "ab"]
    return Split("train", texts[0], [i % 2 for i in range(count)], range(count), texts[1])


def truth(tokenizer, split: Split, **options):
    return tokenizer(split.texts, split.seconds, truncation=True, max_length=16, **options)


def test_ids_and_segments_are_the_tokenizers_also_from_the_cache(cache_folder, tokenizer):
    split = pairs()
    expected = truth(tokenizer, split)
    assert any(1 in item and 0 in item for item in expected["token_type_ids"])
    for cached in (False, True):
        data = TASK.encode(split, tokenizer, train=True)
        assert data.from_cache is cached
        rows = np.arange(len(data))
        assert [item.tolist() for item in data.pieces(rows)] == expected["input_ids"]
        assert [item.tolist() for item in data.pieces(rows, data.segments)] == expected["token_type_ids"]
    cut = sum(len(f"{a} {b}".split()) + 3 > 16 for a, b in zip(split.texts, split.seconds, strict=True))
    assert data.truncated == cut > 0


def test_other_second_texts_and_single_texts_are_other_content(cache_folder, tokenizer):
    split = pairs()
    data = TASK.encode(split, tokenizer, train=True)
    for other in (replace(split, seconds=split.texts), replace(split, seconds=None)):
        assert not TASK.encode(other, tokenizer, train=True).from_cache
    plain = replace(TASK, segments=False).encode(split, tokenizer, train=True)
    assert not plain.from_cache
    assert plain.segments is None
    assert np.array_equal(plain.tokens, data.tokens)


def test_the_network_sees_what_transformers_would_give_it(cache_folder, tokenizer, network):
    split, model = pairs(), network(TASK, "bert")
    data = TASK.encode(split, tokenizer, train=True)
    with torch.no_grad():
        found = TASK.evaluate(model, data, 4, torch.device("cpu")).predictions
        logits = model(**truth(tokenizer, split, padding=True, return_tensors="pt")).logits
        blind = TASK.evaluate(model, replace(data, segments=None), 4, torch.device("cpu")).predictions
    mine = np.stack([found["logit_0"], found["logit_1"]], axis=1)
    np.testing.assert_allclose(mine, logits.numpy(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(blind["logit_0"], mine[:, 0])


def test_taken_items_keep_their_segments(cache_folder, tokenizer):
    data = TASK.encode(pairs(), tokenizer, train=True)
    rows = np.array([7, 2, 7])
    taken = data.take(rows)
    assert [item.tolist() for item in taken.pieces(np.arange(3), taken.segments)] == [
        item.tolist() for item in data.pieces(rows, data.segments)
    ]
    assert (taken.ids.tolist(), taken.labels.tolist()) == ([7, 2, 7], data.labels[rows].tolist())


@pytest.mark.parametrize(
    ("architecture", "told"),
    [("bert", True), ("electra", True), ("roberta", False), ("distilbert", False), ("gpt2", False)],
)
def test_segments_are_for_networks_that_have_them(tokenizer, architecture, told, sentences):
    split = pairs()
    data = TextData(split, split, split, ("no", "yes"), "0")
    dataset = Text(name="text", path=str(sentences), max_length=16)
    config = AutoConfig.for_model(architecture, **({"type_vocab_size": 1} if architecture == "roberta" else {}))
    assert task_for(dataset, data, tokenizer, config) == replace(TASK, segments=told)
    tokenizer.model_input_names.remove("token_type_ids")
    assert task_for(dataset, data, tokenizer, config) == replace(TASK, segments=False)
    tokenizer.model_input_names.append("token_type_ids")
    single = replace(data, train=replace(split, seconds=None))
    assert task_for(dataset, single, tokenizer, config) == replace(TASK, segments=False)
