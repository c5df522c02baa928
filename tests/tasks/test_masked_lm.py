"""Masked language modelling: what is hidden, that evaluation always hides the same, and transformers' own loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from peftbench.data.base import Split
from peftbench.tasks.masked_lm import MaskedLM

CPU = torch.device("cpu")
TASK = MaskedLM(12, 0, None, mask_id=4, special_ids=(0, 1, 2, 3, 4), vocab_size=65, mask_seed=0)


@pytest.fixture
def data(cache_folder, tokenizer):
    words = [f"w{token}" for token in np.random.default_rng(1).integers(0, 60, 401)]
    lines = [" ".join([*words[start : start + 9], "unheard"]) for start in range(0, 401, 9)]
    return TASK.encode(Split("test", lines, None, range(len(lines))), tokenizer, train=True)


def masks(task: MaskedLM, data, batch_size: int, seed: int | None) -> dict[int, tuple]:
    """For each block, what the model sees and what it must say."""
    return {
        int(row): (tuple(ids[real.bool()].tolist()), tuple(labels[real.bool()].tolist()))
        for batch in task.batches(data, batch_size, seed=seed)
        for row, ids, real, labels in zip(
            batch.rows, batch.inputs["input_ids"], batch.inputs["attention_mask"], batch.labels, strict=True
        )
    }


def test_blocks_are_whole_and_lose_no_token(data):
    blocks = [data.tokens[data.offsets[i] : data.offsets[i + 1]].tolist() for i in range(len(data))]
    assert all(block[0] == 2 and block[-1] == 3 for block in blocks)
    assert {len(block) for block in blocks[:-1]} == {12}
    inner = [token for block in blocks for token in block[1:-1]]
    assert len(inner) == 401 + 45
    assert inner.count(1) == 45
    assert [token - 5 for token in inner if token != 1] == np.random.default_rng(1).integers(0, 60, 401).tolist()


def test_fifteen_percent_are_predicted_and_special_tokens_never(data):
    for row, (seen, labels) in masks(TASK, data, 5, 3).items():
        truth = data.tokens[data.offsets[row] : data.offsets[row + 1]].tolist()
        chosen = [i for i, label in enumerate(labels) if label != -100]
        ordinary = [i for i, token in enumerate(truth) if token > 4]
        assert set(chosen) <= set(ordinary)
        assert len(chosen) == max(1, round(0.15 * len(ordinary)))
        assert all(labels[i] == truth[i] for i in chosen)
        assert all(seen[i] == truth[i] for i in range(len(truth)) if i not in chosen)


def test_four_fifths_are_hidden_a_tenth_replaced_a_tenth_left(data):
    hidden = left = replaced = 0
    for seed in range(60):
        for seen, labels in masks(TASK, data, 8, seed).values():
            for token, label in zip(seen, labels, strict=True):
                hidden += label != -100 and token == 4
                left += label != -100 and token == label
                replaced += label != -100 and token not in (4, label)
                assert label == -100 or token == 4 or token > 4
    total = hidden + left + replaced
    assert total > 2000
    # A replacement is the token itself once in 60.
    assert hidden / total == pytest.approx(0.8, abs=0.03)
    assert replaced / total == pytest.approx(0.1 * 59 / 60, abs=0.02)
    assert left / total == pytest.approx(0.1 + 0.1 / 60, abs=0.02)


def test_the_training_mask_is_new_with_every_seed_and_the_same_for_the_same(data):
    assert masks(TASK, data, 5, 1) == masks(TASK, data, 5, 1) != masks(TASK, data, 5, 2)


def test_the_evaluation_mask_depends_on_its_own_seed_alone(data):
    fixed = masks(TASK, data, 5, None)
    torch.manual_seed(99)
    np.random.seed(99)
    assert masks(TASK, data, 16, None) == fixed
    assert masks(replace(TASK, mask_seed=1), data, 5, None) != fixed
    assert masks(TASK, data, 5, 0) != fixed
    half = masks(replace(TASK, probability=0.4), data, 5, None)
    places = {tuple(label != -100 for label in labels) for _, labels in half.values()}
    assert len(places) > 30, "each of the 45 blocks has a mask of its own"


def test_the_loss_is_transformers_own(data, network):
    model = network(TASK, "bert")
    for batch in TASK.batches(data, 7, seed=0):
        loss = TASK.loss(model, batch)
        assert loss.item() == pytest.approx(model(**batch.inputs, labels=batch.labels).loss.item(), rel=1e-5)
        loss.backward()
    assert batch.labels[batch.inputs["attention_mask"] == 0].eq(-100).all()


@pytest.mark.parametrize("architecture", ["esm", "mobilebert", "bart", "mbart"])
def test_a_network_that_finishes_its_logits_itself_has_the_loss_of_these(data, network, architecture: str):
    """ESM and BART add a bias to what a frozen output layer answers; MobileBERT takes its weight and never asks it."""
    model = network(TASK, architecture)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".0." in name)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if "bias" in name:
            tensor.detach().normal_()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for batch in TASK.batches(data, 7, seed=0):
        logits = model(**batch.inputs).logits
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        loss = TASK.loss(model, batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        pairs = zip(*(torch.autograd.grad(each, trained, allow_unused=True) for each in (loss, expected)), strict=True)
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_error_of_the_network_is_not_taken_for_its_way_with_logits(data, network, monkeypatch):
    model = network(TASK, "bert").requires_grad_(False)
    monkeypatch.setattr(model.bert, "forward", lambda *_, **__: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="size of tensor"):
        TASK.loss(model, next(TASK.batches(data, 7, seed=0)))


def test_evaluation_counts_masked_positions_only_at_any_batch_size(data, network):
    model = network(TASK, "bert")
    nll, tokens = np.zeros(len(data)), np.zeros(len(data))
    with torch.no_grad():
        one, many = (TASK.evaluate(model, data, size, CPU) for size in (1, 16))
        for row, (seen, labels) in masks(TASK, data, 3, None).items():
            likely = torch.log_softmax(model(input_ids=torch.tensor([seen])).logits[0].double(), -1)
            scored = [(i, label) for i, label in enumerate(labels) if label != -100]
            nll[row], tokens[row] = -sum(float(likely[i, label]) for i, label in scored), len(scored)
    for result in (one, many):
        assert list(result.predictions) == ["id", "tokens", "nll"]
        np.testing.assert_allclose(result.predictions["nll"], nll, rtol=1e-4)
        assert result.predictions["tokens"].tolist() == tokens.tolist()
    mean = many.predictions["nll"].sum() / many.predictions["tokens"].sum()
    assert many.metrics == {"quality/mlm_loss": mean, "quality/mlm_pseudo_perplexity": math.exp(mean)}


def test_the_output_layer_sees_only_what_is_predicted(data, network):
    """Counted in its own multiplications: 15 % of the positions, in training as in evaluation."""
    from torch.utils.flop_counter import FlopCounterMode

    model = network(TASK, "bert")
    (batch,) = TASK.batches(data, len(data), seed=0)
    asked = int((batch.labels != -100).sum())
    assert asked < 0.2 * batch.real_tokens
    with FlopCounterMode(display=False) as counter:
        TASK.loss(model, batch)
    assert counter.get_flop_counts()["BertForMaskedLM.cls.predictions.decoder"].popitem()[1] == 2 * asked * 16 * 65


def test_a_compiled_network_sees_each_batchs_own_positions(data, network):
    model = network(TASK, "bert")
    compiled = torch.compile(model, backend="eager", dynamic=True)
    for batch in TASK.batches(data, 15, seed=0):
        assert TASK.loss(compiled, batch).item() == pytest.approx(TASK.loss(model, batch).item(), rel=1e-5)


def test_a_block_of_unknown_words_has_a_loss_of_nothing(cache_folder, tokenizer, network):
    data = TASK.encode(Split("test", ["unheard of"], None, [0]), tokenizer, train=True)
    (batch,) = TASK.batches(data, 4, seed=0)
    loss = TASK.loss(network(TASK, "bert"), batch)
    loss.backward()
    assert loss.item() == 0.0
