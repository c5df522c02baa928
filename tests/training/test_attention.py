"""Attention: what it computes without dropout, and with a known mask value and gradients equal to the plain formula."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from peftbench.bench.contenders import Ops
from peftbench.bench.workloads import TINY, Case
from peftbench.training import attention
from peftbench.training.dropout import RESOLUTION, Bits


@pytest.fixture(autouse=True)
def _seeded() -> None:
    Bits.seed(0)


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(5, 3, 8, 4, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3)]


def padding(heads: int = 1) -> torch.Tensor:
    mask = torch.zeros(5, heads, 8, 8, dtype=torch.float64)
    mask[2, :, :, 5:] = torch.finfo(torch.float32).min
    return mask


def by_formula(query, key, value, mask, p) -> torch.Tensor:
    """softmax, a mask drawn at once from the same generator, and autograd."""
    weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + mask).softmax(-1)
    dropped = round(p * RESOLUTION)
    keep = Bits.below(weights.shape, dropped) >= 0
    return (weights * keep * (RESOLUTION / (RESOLUTION - dropped)) @ value).transpose(1, 2)


@pytest.mark.parametrize("part", [matrices * 8 * 8 for matrices in (1, 2, 3, 6, 100)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_value_and_gradients_are_those_of_the_formula(dtype, tolerance, part, monkeypatch) -> None:
    monkeypatch.setattr(attention, "PART", part)
    given = inputs(dtype)
    # One mask for all heads, as transformers makes it, or, where a part is less than all heads, one for each.
    masked = padding() if part >= 3 * 8 * 8 else padding(3)
    masked[4, -1, :, 6:] = torch.finfo(torch.float32).min
    found, _ = attention.attention(nn.Module().train(), *given, masked.to(dtype), dropout=0.3)
    weight = torch.randn(found.shape, dtype=torch.float64)
    (found.double() * weight).sum().backward()
    Bits.seed(0)
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = by_formula(*exact, masked, 0.3)
    (expected * weight).sum().backward()
    pairs = [(found, expected), *((x.grad, y.grad) for x, y in zip(given, exact, strict=True))]
    for ours, theirs in pairs:
        assert ours.dtype == dtype
        assert torch.allclose(ours.double(), theirs, atol=tolerance * float(theirs.detach().abs().max()), rtol=0)


@pytest.mark.parametrize(("part", "parts"), [(2**20, 1), (3 * 8 * 8, 5), (8 * 8, 15)])
def test_what_is_kept_for_the_way_back_is_one_weight_for_each_score(part, parts, monkeypatch) -> None:
    monkeypatch.setattr(attention, "PART", part)
    kept: list[torch.Tensor] = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return x

    given = inputs(torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attention.attention(nn.Module().train(), *given, None, dropout=0.3)
    assert sorted(x.shape[-1] for x in kept) == [4, 4, 4, *[8] * parts]
    assert sum(x.numel() for x in kept if x.shape[-1] == 8) == 5 * 3 * 8 * 8


@pytest.mark.parametrize("training", [False, True])
def test_attention_equals_torchs_own(training) -> None:
    """Closed form of what is left once nothing is dropped; with dropout the mean over many masks goes there too."""
    torch.manual_seed(0)
    module = nn.Module().train(training)
    query, key, value = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.float64)
    mask[:, :, :, 3:] = torch.finfo(torch.float64).min
    expected = nn.functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)
    exact, _ = attention.attention(module, query, key, value, mask, dropout=0.0)
    assert torch.allclose(exact, expected, atol=1e-12)
    if training:
        draws = torch.stack([attention.attention(module, query, key, value, mask, dropout=0.3)[0] for _ in range(4000)])
        error = draws.std(0) / len(draws) ** 0.5
        assert not torch.allclose(draws[0], draws[1])
        assert ((draws.mean(0) - expected).abs() < 6 * error + 1e-3).all()


@pytest.mark.parametrize("name", [attention.NAME, attention.PADDED])
@pytest.mark.parametrize("option", ["bert", "distilbert", "gpt2", "llama"])
def test_a_network_computes_what_it_does_with_transformers_plain_attention(option: str, name: str) -> None:
    from transformers import (
        BertConfig,
        BertModel,
        DistilBertConfig,
        DistilBertModel,
        GPT2Config,
        GPT2Model,
        LlamaConfig,
        LlamaModel,
    )

    attention.register()
    config, network = {
        "bert": (
            BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50),
            BertModel,
        ),
        "distilbert": (DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=50), DistilBertModel),
        "gpt2": (GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50), GPT2Model),
        "llama": (  # grouped queries
            LlamaConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=32,
                vocab_size=50,
            ),
            LlamaModel,
        ),
    }[option]
    torch.manual_seed(0)
    # A copy each: what the network is told about attention is kept in its configuration.
    plain = network._from_config(deepcopy(config), attn_implementation="eager").eval()
    ours = network._from_config(deepcopy(config), attn_implementation=name).eval()
    ours.load_state_dict(plain.state_dict())
    ids = torch.randint(1, 50, (3, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    with torch.no_grad():
        first = plain(input_ids=ids, attention_mask=mask).last_hidden_state
        with Ops() as asked:
            second = ours(input_ids=ids, attention_mask=mask).last_hidden_state
        theirs = network._from_config(deepcopy(config), attn_implementation="sdpa").eval()
        with Ops() as asked_by_theirs:
            theirs(input_ids=ids, attention_mask=mask)
    question = "_local_scalar_dense"  # whether there is padding
    assert asked.counts[question] == 0
    assert asked_by_theirs.counts[question] > 0
    assert torch.allclose(first[mask.bool()], second[mask.bool()], atol=1e-5)


def test_what_is_computed_twice_has_torchs_own_dropout() -> None:
    # Gradient checkpointing puts back the state of torch's generator and of no other.
    case = Case(TINY, "attention", "cpu")
    assert case.context("lora").attention == attention.NAME
    assert case.context("lora", "trainer.gradient_checkpointing=true").attention == attention.PADDED
