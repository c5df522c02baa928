"""Causal language modelling against a model asked for one token at a time, and against transformers' own loss."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from peftbench.data.base import Split
from peftbench.errors import UserError
from peftbench.tasks import language_modeling
from peftbench.tasks.causal_lm import CausalLM
from peftbench.tasks.language_modeling import corpus_texts

CPU = torch.device("cpu")
TASK = CausalLM(8, 0, None, stride=3)


@pytest.fixture
def encode(cache_folder, word_tokenizer):
    """A random corpus of ``count`` tokens on lines of seven, encoded."""

    def encoded(count: int, task: CausalLM = TASK, *, train: bool = False):
        words = [f"w{token}" for token in np.random.default_rng(1).integers(0, 60, count)]
        lines = [" ".join(words[start : start + 7]) for start in range(0, count, 7)]
        return task.encode(Split("test", lines, None, range(len(lines))), word_tokenizer(ends=False), train=train)

    return encoded


def window_start(position: int, count: int, stride: int) -> int:
    """Where the first window of 8 tokens that holds ``position`` begins, windows ending at 8, 8 + stride, ..."""
    end = 8
    while end <= position:
        end += stride
    return max(0, min(end, count) - 8)


@pytest.mark.parametrize(("count", "stride"), [(50, 3), (50, 7), (29, 1), (8, 3), (9, 3), (5, 2), (2, 2)])
def test_perplexity_is_what_one_token_at_a_time_gives(encode, network, count, stride):
    task = replace(TASK, stride=stride)
    data = encode(count, task)
    model = network(task, "gpt2")
    tokens = torch.tensor(data.tokens.tolist())
    total = 0.0
    with torch.no_grad():
        result = task.evaluate(model, data, 4, CPU)
        for position in range(1, count):
            past = tokens[window_start(position, count, stride) : position]
            logits = model(input_ids=past[None]).logits[0, -1].double()
            total -= float(torch.log_softmax(logits, -1)[tokens[position]])
    assert len(tokens) == count
    assert int(result.predictions["tokens"].sum()) == count - 1, "every token once, but the first"
    assert result.metrics["quality/loss"] == pytest.approx(total / (count - 1), rel=1e-5)
    assert result.metrics["quality/perplexity"] == pytest.approx(math.exp(total / (count - 1)), rel=1e-4)


def test_perplexity_is_recomputed_from_predictions_at_any_batch_size(encode, network):
    data = encode(50)
    model = network(TASK, "gpt2")
    with torch.no_grad():
        one, many = (TASK.evaluate(model, data, size, CPU) for size in (1, 16))
    assert list(one.predictions) == ["id", "tokens", "nll"]
    np.testing.assert_allclose(one.predictions["nll"], many.predictions["nll"], rtol=1e-5)
    mean = many.predictions["nll"].sum() / many.predictions["tokens"].sum()
    assert many.metrics == {"quality/loss": mean, "quality/perplexity": math.exp(mean)}
    assert np.std(many.predictions["nll"]) > 0.1


class WithoutFloat64(torch.Tensor):
    """On a device such as MPS."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_has_the_same_figures(encode, network, monkeypatch):
    data, model = encode(50), network(TASK, "gpt2")
    losses = language_modeling.predicted_losses
    with torch.no_grad():
        expected = TASK.evaluate(model, data, 4, CPU)
        monkeypatch.setattr(
            language_modeling, "predicted_losses", lambda *what: losses(*what).as_subclass(WithoutFloat64)
        )
        assert TASK.evaluate(model, data, 4, CPU).metrics == expected.metrics


def test_a_longer_past_is_used(encode, network):
    """A window that ignored the tokens before its own would score them as a training block does."""
    blocks, strides = encode(50, train=True), encode(50)
    model = network(TASK, "gpt2")
    with torch.no_grad():
        assert TASK.evaluate(model, blocks, 4, CPU).predictions["tokens"].sum() == 50 - 1 - 5
        assert TASK.evaluate(model, strides, 4, CPU).predictions["tokens"].sum() == 50 - 1


def test_training_blocks_are_full_and_the_loss_is_transformers_own(encode, network):
    data = encode(48, train=True)
    model = network(TASK, "gpt2")
    batches = list(TASK.batches(data, 2, seed=5))
    assert len(batches) == TASK.steps_per_epoch(data, 2) == 3
    assert sorted(row for batch in batches for row in batch.rows) == list(range(6))
    for batch in batches:
        ids = batch.inputs["input_ids"]
        assert ids.shape == (2, 8)
        assert batch.real_tokens == batch.computed_tokens == 16
        loss = TASK.loss(model, batch)
        assert loss.item() == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-5)
        loss.backward()
    assert model.transformer.wte.weight.grad.abs().sum() > 0


def test_the_order_of_blocks_follows_the_seed(encode):
    data = encode(200, train=True)
    orders = [[row for batch in TASK.batches(data, 2, seed=seed) for row in batch.rows] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_train_and_evaluation_windows_do_not_share_a_cache_entry(encode):
    assert encode(50, train=True).lengths.tolist() == [8] * 6 + [2]
    assert encode(50).lengths.tolist() == [8] + [3] * 14
    assert encode(50).from_cache


def test_half_precision_logits_are_raised_before_the_loss(encode):
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.output_layer = torch.nn.Identity()

        def get_output_embeddings(self):
            return self.output_layer

        def forward(self, input_ids, attention_mask=None):
            hidden = torch.nn.functional.one_hot(input_ids, 65).to(torch.bfloat16) / 3
            return SimpleNamespace(logits=self.output_layer(hidden))

    data = encode(30)
    batch = next(TASK.batches(data, 3, seed=0))
    assert TASK.loss(Half(), batch).dtype == torch.float32
    # Every position says its own token at logit 1/3 (as bfloat16 has it): right only where a token repeats.
    third = float(torch.tensor(1 / 3, dtype=torch.bfloat16))
    tokens = data.tokens
    repeats = int((tokens[1:] == tokens[:-1]).sum())
    expected = math.log(math.exp(third) + 64) - third * repeats / 29
    assert TASK.evaluate(Half(), data, 3, CPU).metrics["quality/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("architecture", "fields", "honest"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2}, True),
        ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}, False),
        ("bert-generation", {"is_decoder": False}, False),
        ("bert-generation", {"is_decoder": True}, True),
        ("mixtral", {"num_local_experts": 4, "num_key_value_heads": 2}, True),
    ],
)
def test_a_network_that_sees_what_it_is_to_predict_is_refused(encode, architecture, fields, honest):
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape = fields if "n_layer" in fields else shape | fields
    config = AutoConfig.for_model(architecture, **shape, vocab_size=65, initializer_range=0.3)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with (
        torch.no_grad(),
        nullcontext() if honest else pytest.raises(UserError, match=f"{architecture} sees the tokens"),
    ):
        TASK.check(model, encode(30), CPU)


@pytest.mark.parametrize(("moved", "refused"), [(1, False), (2, False), (3, True), (4, True)])
def test_most_positions_decide_whether_a_network_sees_later_tokens(encode, moved, refused):
    """One may move where rounding makes a mixture of experts choose another expert."""

    class Moving(torch.nn.Module):
        config = SimpleNamespace(model_type="moving")

        def forward(self, input_ids):
            logits = torch.nn.functional.one_hot(input_ids, 65).float()
            logits[:, :moved] += 0.1 * input_ids[:, -1:, None]
            return SimpleNamespace(logits=logits)

    with pytest.raises(UserError, match="moving sees") if refused else nullcontext():
        TASK.check(Moving(), encode(30), CPU)


def test_lines_end_and_unknown_words_are_the_tokenizers_own(word_tokenizer):
    split = Split("test", ["a <unk> b", "c \n"], None, [0, 1])
    assert corpus_texts(split, word_tokenizer(), "<unk>") == ["a [UNK] b\n", "c \n"]
    assert corpus_texts(split, word_tokenizer(), None) == ["a <unk> b\n", "c \n"]
    # GPT-2's unknown token is its end of text: that is not what <unk> means.
    assert corpus_texts(split, word_tokenizer(unk_is_eos=True), "<unk>") == ["a <unk> b\n", "c \n"]


def test_an_unknown_word_becomes_one_token(cache_folder, word_tokenizer):
    data = replace(TASK, unk_literal="<unk>").encode(
        Split("test", ["w1 <unk> w2"], None, [0]), word_tokenizer(ends=False), train=False
    )
    assert data.tokens.tolist() == [6, 1, 7]


def test_a_corpus_of_nothing_is_answered(cache_folder, word_tokenizer):
    with pytest.raises(UserError, match="fewer than two tokens"):
        TASK.encode(Split("test", ["w1"], None, [0]), word_tokenizer(ends=False), train=False)
