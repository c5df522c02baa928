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
from peftbench.errors import UserError

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
EXPERTS = {
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}


STEPS = [(name, method) for name in ARCHITECTURES for method in ("lora", "hira", "qlora")]
STEPS.remove(("falcon", "qlora"))  # its layers are of a kind that bitsandbytes does not know


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize(("architecture", "method"), STEPS)
def test_a_step_is_that_of_pefts_layers(architecture: str, method: str, targets: str, tmp_path: Path) -> None:
    case = _case(architecture, targets, tmp_path)
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


def _case(architecture: str, targets: str, folder: Path) -> Case:
    modules, more = {**ARCHITECTURES, "deepseek_v3": ("q_b_proj,kv_b_proj", EXPERTS)}[architecture]
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SHAPE, **NO_DROPOUT, **more, num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    base = ("model=distilbert", f"model.path={folder}", f"model.targets=[{modules}]", "trainer.precision=fp32")
    return Case(Workload(architecture, base, 3, 24, 1), targets, "cpu")


def test_a_network_that_stays_dense_is_not_called_qlora(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bitsandbytes quantizes no layer of FalconForSequenceClassification"):
        enter(_case("falcon", "attention", tmp_path), "qlora")


def test_experts_are_not_adapted_in_place_of_what_is_named(tmp_path: Path) -> None:
    """PEFT knows a mixture of experts by the names that its layers once had, and takes the shared expert's for them."""
    with pytest.raises(UserError, match="PEFT would adapt down_proj, gate_up_proj of the experts in place"):
        enter(_case("deepseek_v3", "all-linear", tmp_path), "lora")
    adapted = enter(_case("deepseek_v3", "attention", tmp_path), "lora").attached.trainable()
    assert {name.split(".")[-4] for name, _ in adapted if "lora_" in name} == {"q_b_proj", "kv_b_proj"}


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
