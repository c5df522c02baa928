"""The last layer computed at the first token only: the same numbers as the whole of it, for less work."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from peftbench.methods import lora_layer
from peftbench.training import attention, last_layer

ITEMS, LENGTH, WIDTH, HIDDEN, LAYERS = 4, 11, 32, 64, 3
CORE = "base_model.model.bert.encoder.layer.2.attention.self"
"""Of PEFT's wrapper around a BERT."""
BERT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": HIDDEN,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
FIELDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), BERT),
    "electra": {**BERT, "embedding_size": WIDTH},
    "distilbert": {
        "dim": WIDTH,
        "n_layers": LAYERS,
        "n_heads": 2,
        "hidden_dim": HIDDEN,
        **dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0),
    },
    "gpt2": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2},
}


def network(kind: str, how: str, auto: Any = AutoModelForSequenceClassification, **more: Any) -> PreTrainedModel:
    attention.register()
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=50, pad_token_id=0, initializer_range=0.3, **FIELDS[kind], **more)
    return auto.from_config(config, attn_implementation=how).double()


def inputs(padded: bool) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 50, (ITEMS, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 6:] = mask[2, 1:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize("how", last_layer.ATTENTIONS)
@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "roberta", "xlm-roberta"])
def test_logits_and_gradients_are_those_of_the_whole_layer(kind: str, how: str, padded: bool) -> None:
    whole = network(kind, how)
    ours = copy.deepcopy(whole)
    assert last_layer.install(ours)
    found = [model(**inputs(padded)) for model in (whole, ours)]
    torch.testing.assert_close(found[1].logits, found[0].logits)
    for output in found:
        output.loss.backward()
    own = dict(ours.named_parameters())
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(own[name].grad, parameter.grad, msg=name)


def adapted(**options: Any) -> Any:
    """PEFT's LoRA in float64; the same weights at every call."""
    config = LoraConfig(r=2, init_lora_weights=False, **options)
    torch.manual_seed(0)
    return get_peft_model(network("bert", "sdpa"), config, autocast_adapter_dtype=False).train()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Those of what is trained, all of which has some."""
    model(**inputs(padded=True)).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


QUERY_VALUE = ["query", "value"]


@pytest.mark.parametrize(
    ("options", "ours", "every_token"),
    [
        ({"target_modules": QUERY_VALUE}, True, []),
        ({"target_modules": QUERY_VALUE}, False, ["value"]),
        ({"target_modules": ["query", "key", "value", "dense"]}, True, ["key"]),
        ({"target_modules": ["dense"]}, True, []),
        ({"target_modules": QUERY_VALUE, "use_dora": True}, True, ["value"]),
    ],
    ids=["q and v", "PEFT's own layers", "all linear layers", "neither", "DoRA"],
)
def test_adapters_and_recomputation_give_the_same_gradients(
    options: dict[str, Any], ours: bool, every_token: list[str]
) -> None:
    whole, model = adapted(**options), adapted(**options)
    if ours:
        lora_layer.fuse(model)
    assert last_layer.install(model)
    assert model.get_submodule(CORE).reads_every_token() == every_token
    model.gradient_checkpointing_enable()
    expected, found = gradients(whole), gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_values_with_dropout_of_the_adapter_are_those_of_every_token() -> None:
    model = adapted(target_modules=QUERY_VALUE, lora_dropout=0.5)
    lora_layer.fuse(model)
    last_layer.install(model)
    core = model.get_submodule(CORE)
    assert core.reads_every_token() == ["value"]
    assert core.eval().reads_every_token() == []


def test_dropout_of_the_attention_drops_what_transformers_would(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (torch.rand(ITEMS, 2, LENGTH, generator=torch.Generator().manual_seed(2)) > 0.4).double()

    def drop(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        """The same tokens for every query, and so for the one that is read."""
        return x * (kept if x.dim() == 3 else kept.unsqueeze(2)) / (1 - p) if training and p else x

    whole = network("bert", "eager").train()
    whole.bert.encoder.layer[-1].attention.self.dropout.p = 0.4
    for parameter in whole.bert.encoder.layer[-1].attention.self.key.parameters():
        parameter.requires_grad = False
    ours = copy.deepcopy(whole)
    ours.set_attn_implementation("sdpa")
    assert last_layer.install(ours)
    monkeypatch.setattr(torch.nn.functional, "dropout", drop)
    expected, found = gradients(whole), gradients(ours)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("frozen", [True, False])
def test_keys_are_computed_where_they_are_trained_and_all_else_for_few_tokens(frozen: bool) -> None:
    def flops(model: PreTrainedModel) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**inputs(padded=False))
        return counter.get_total_flops()

    model = network("bert", "cpu").train()  # whose attention is made of products that the counter knows
    attention_of_last = model.bert.encoder.layer[-1].attention.self
    attention_of_last.dropout.p = 0.5
    attention_of_last.key.requires_grad_(not frozen)
    before = flops(model)
    last_layer.install(model)
    heads, square = 2, WIDTH * WIDTH
    whole = LENGTH * (4 * square + 2 * WIDTH * HIDDEN) + 2 * LENGTH * LENGTH * WIDTH
    keys = square + heads * LENGTH * WIDTH if frozen else LENGTH * square + LENGTH * WIDTH
    values = heads * square + heads * LENGTH * WIDTH
    assert before - flops(model) == 2 * ITEMS * (whole - (2 * square + 2 * WIDTH * HIDDEN + keys + values))


@pytest.mark.parametrize(
    ("kind", "how", "auto", "more"),
    [
        ("gpt2", "sdpa", AutoModelForSequenceClassification, {}),
        ("bert", "eager", AutoModelForSequenceClassification, {}),
        ("bert", "sdpa", AutoModelForMaskedLM, {}),
        ("bert", "sdpa", AutoModelForSequenceClassification, {"is_decoder": True}),
    ],
    ids=["reads another token", "needs as many queries as keys", "reads all tokens", "is causal"],
)
def test_other_networks_stay_as_they_are(kind: str, how: str, auto: Any, more: dict[str, Any]) -> None:
    model = network(kind, how, auto, **more)
    before = [type(module) for module in model.modules()]
    assert not last_layer.install(model)
    assert [type(module) for module in model.modules()] == before


def test_uninstalling_leaves_nothing_behind() -> None:
    model = network("distilbert", "sdpa")
    before = [type(module) for module in model.modules()]
    last_layer.install(model)
    assert [type(module) for module in model.modules()] != before
    last_layer.uninstall(model)
    assert [type(module) for module in model.modules()] == before
