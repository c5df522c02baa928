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

from peftbench.training import attention, last_layer

ITEMS, LENGTH, WIDTH, HIDDEN, LAYERS = 4, 11, 32, 64, 3
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


def test_adapters_and_recomputation_give_the_same_gradients() -> None:
    models: list[Any] = []
    for _ in range(2):
        config = LoraConfig(r=2, target_modules=["query", "value", "dense"], init_lora_weights=False)
        torch.manual_seed(0)
        models.append(get_peft_model(network("bert", "sdpa"), config, autocast_adapter_dtype=False).train())
    assert last_layer.install(models[1])
    models[1].gradient_checkpointing_enable()
    for model in models:
        model(**inputs(padded=True)).loss.backward()
    own = dict(models[1].named_parameters())
    trained = {name: parameter for name, parameter in models[0].named_parameters() if parameter.requires_grad}
    assert any("layer.2.output" in name for name in trained)
    for name, parameter in trained.items():
        torch.testing.assert_close(own[name].grad, parameter.grad, msg=name)


def test_only_keys_and_values_are_computed_for_every_token() -> None:
    def flops(model: PreTrainedModel) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**inputs(padded=False))
        return counter.get_total_flops()

    model = network("bert", "cpu").train()  # whose attention is made of products that the counter knows
    model.bert.encoder.layer[-1].attention.self.dropout.p = 0.5
    before = flops(model)
    last_layer.install(model)
    others = ITEMS * (LENGTH - 1)
    linear = 2 * (2 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN)
    scores = 2 * (2 * WIDTH * LENGTH)
    assert before - flops(model) == others * (linear + scores)


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
