"""Networks that nothing here names: a training step of ours has the loss and the gradients of PEFT's own layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft.tuners.hira.layer import HiraLayer
from transformers import AutoConfig, AutoModelForSequenceClassification

from peftbench.bench.contenders import Contender, enter
from peftbench.bench.workloads import Case, Workload

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 70,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
NO_DROPOUT = dict.fromkeys(
    (
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "classifier_dropout"),
        *("pooler_dropout", "dropout", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"),
    ),
    0.0,
)
DECODER = {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8}
ARCHITECTURES = {
    "albert": ("query,value", {}),  # layers that share their weights
    "deberta-v2": ("query_proj,value_proj", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "electra": ("query,value", {}),
    "falcon": ("query_key_value", {}),
    "gemma2": ("q_proj,v_proj", {**DECODER, "attn_logit_softcapping": 0.3}),
    "llama": ("q_proj,v_proj", DECODER),
    "mistral": ("q_proj,v_proj", DECODER),
    "modernbert": ("Wqkv", {"local_attention": 8, "global_attn_every_n_layers": 2}),
    "mpnet": ("q,v", {}),
    "opt": ("q_proj,v_proj", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "phi3": ("qkv_proj", DECODER),
    "roberta-prelayernorm": ("query,value", {}),
}


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("method", ["lora", "hira", "qlora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_is_that_of_pefts_layers(architecture: str, method: str, targets: str, tmp_path: Path) -> None:
    modules, more = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SHAPE, **NO_DROPOUT, **more, num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    base = ("model=distilbert", f"model.path={tmp_path}", f"model.targets=[{modules}]", "trainer.precision=fp32")
    case = Case(Workload(architecture, base, 3, 24, 1), targets, "cpu")
    ours, theirs = enter(case, method), enter(case, f"peft_{method}")
    for module in ours.attached.model.modules():
        if isinstance(module, HiraLayer):
            module.scale = 1.0  # PEFT's HiRA has none
    for padded in (0, 9):
        (loss, gradients), (expected, others) = (_of_step(one, padded) for one in (ours, theirs))
        assert loss == pytest.approx(expected, rel=1e-4)
        assert gradients.keys() == others.keys()
        for name, gradient in gradients.items():
            assert torch.linalg.norm(gradient - others[name]) <= 2e-3 * torch.linalg.norm(others[name]) + 1e-7, name


def _of_step(one: Contender, padded: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch whose first item ends in ``padded`` tokens of padding, with weights of its own."""
    inputs = {name: value.clone() for name, value in one.batch.inputs.items()}
    for value in inputs.values():
        value[0, value.shape[1] - padded :] = 0
    batch = replace(one.batch, inputs=inputs, real_tokens=one.batch.real_tokens - padded)
    named = {_plain(name): p for name, p in one.attached.model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in sorted(named):
            named[name].copy_(0.1 * torch.randn(named[name].shape, generator=generator))
            named[name].grad = None
    loss = one.case.task.loss(one.attached.model, batch)
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in named.items() if p.grad is not None}


def _plain(name: str) -> str:
    """A parameter's name without what PEFT puts into it."""
    return name.removeprefix("base_model.model.").replace(".default", "").replace("modules_to_save.", "")
