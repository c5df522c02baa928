"""Attention: what it computes without dropout, and with a known mask value and gradients equal to the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

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


@pytest.mark.parametrize("needed", [(0, 1, 2), (0, 2), (2,), (1,)])
def test_what_needs_no_gradient_costs_no_product(needed) -> None:
    """Of the first layer's three projections, LoRA on queries and values leaves the keys without one."""

    def gradients(which) -> tuple[list, int]:
        given = [x.detach().requires_grad_(index in which) for index, x in enumerate(inputs(torch.float32))]
        Bits.seed(0)
        found, _ = attention.attention(nn.Module().train(), *given, None, dropout=0.3)
        with Ops() as seen:
            found.square().sum().backward()
        return [x.grad for x in given], seen.counts["bmm"]

    (everything, products), (some, fewer) = gradients((0, 1, 2)), gradients(needed)
    assert [index for index, x in enumerate(some) if x is not None] == list(needed)
    assert all(x is None or torch.equal(x, whole) for x, whole in zip(some, everything, strict=True))
    assert fewer == products - (3 - len(needed)) * products // 4


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


QUESTION = "_local_scalar_dense"
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
LOCAL = {"sliding_window": 3, "local_attention": 4, "global_attn_every_n_layers": 2}
OURS = ("albert", "bert", "distilbert", "gpt2", "llama", "mistral", "modernbert", "roberta")
THEIRS = {"deberta-v2": "eager", "falcon": "sdpa", "gemma2": "eager", "gpt_oss": "eager", "mpnet": "eager"}
"""Networks that do more with their scores than SDPA does, or that cannot be told what to attend by."""


@pytest.mark.parametrize("name", [attention.NAME, attention.PADDED])
@pytest.mark.parametrize("architecture", [*OURS, *THEIRS])
def test_a_network_computes_what_it_does_with_transformers_plain_attention(architecture: str, name: str) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    special = {"vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0, "initializer_range": 0.5}
    more = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "attn_logit_softcapping": 0.5}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    grouped = GROUPED if architecture in ("llama", "mistral", "gemma2", "gpt_oss") else {}

    def network(**how: str) -> PreTrainedModel:  # a configuration each: it keeps what it is told about attention
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **{**shape, **special, **LOCAL, **more, **experts, **grouped})
        return AutoModel.from_config(config, **how).eval()

    plain, ours = network(attn_implementation="eager"), network()
    attention.register()
    attention.choose(ours, name)
    attention.ask_nothing(ours)
    assert ours.config._attn_implementation == THEIRS.get(architecture, name)
    ids = torch.randint(1, 50, (3, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    with torch.no_grad():
        for inputs in ({"attention_mask": mask}, {}):
            expected = plain(input_ids=ids, attention_mask=inputs.get("attention_mask", torch.ones_like(ids)))[0]
            with Ops() as asked:
                found = ours(input_ids=ids, use_cache=False, **inputs)[0]
            read = inputs.get("attention_mask", torch.ones_like(ids)).bool()
            assert torch.allclose(expected[read], found[read], atol=1e-5)
            if architecture in OURS:
                assert asked.counts[QUESTION] == 0
        if architecture == "bert":  # transformers asks whether there is padding
            with Ops() as asked:
                network()(input_ids=ids, attention_mask=mask)
            assert asked.counts[QUESTION] > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("architecture", ["t5", "mt5", "umt5"])
def test_a_position_bias_counts(architecture: str, training: bool) -> None:
    """T5 and its kin know of positions by nothing else, and train the bias in full fine-tuning."""

    def network(**how: str) -> PreTrainedModel:
        torch.manual_seed(0)
        shape = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 32, "vocab_size": 50}
        config = AutoConfig.for_model(architecture, **shape, dropout_rate=0.0, initializer_factor=2.0)
        return AutoModel.from_config(config, **how).train(training)

    plain, ours = network(attn_implementation="eager"), network()
    attention.register()
    attention.choose(ours, attention.NAME)
    ids = torch.randint(1, 50, (3, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    answers = []
    for model in (plain, ours):
        answer = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :5], use_cache=False)[0]
        # After a norm the sum of squares does not depend on anything.
        (answer * torch.linspace(-1, 1, answer.numel()).view_as(answer)).sum().backward()
        answers.append((answer.detach(), model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight))
    (expected, theirs), (found, bias) = answers
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.linalg.norm(bias.grad - theirs.grad) < 1e-4 * torch.linalg.norm(theirs.grad)


def test_what_is_computed_twice_has_torchs_own_dropout() -> None:
    # Gradient checkpointing puts back the state of torch's generator and of no other.
    case = Case(TINY, "attention", "cpu")
    assert case.context("lora").attention == attention.NAME
    assert case.context("lora", "trainer.gradient_checkpointing=true").attention == attention.PADDED
