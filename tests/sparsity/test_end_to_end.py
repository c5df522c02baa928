"""PEFT's LoRA on a tiny random BERT: 30 steps, saved, compacted, counted in the file, expanded, loaded by PEFT."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from peftbench.methods.base import Attached, Factor
from peftbench.sparsity.compact import (
    COMPACT_FILE,
    DENSE_FILE,
    compact_folder,
    expand_folder,
    sparsity_of,
)
from peftbench.sparsity.schedule import kept

from .helpers import ALL, MASKING, SCHEDULES, options, train

RANK = 8


class PeftFactor(Factor):
    def __init__(self, layer, module):
        self.layer, self.module = layer, module

    a = property(lambda self: self.module.lora_A["default"].weight)
    b = property(lambda self: self.module.lora_B["default"].weight)

    def replace(self, a, b):
        self.module.lora_A["default"].weight, self.module.lora_B["default"].weight = a, b
        self.module.r["default"] = a.shape[0]


@pytest.fixture(scope="module")
def base():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return BertForSequenceClassification(BertConfig(vocab_size=60, max_position_embeddings=20, **sizes)).eval()


@pytest.fixture
def lora(base):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=RANK, lora_alpha=16, target_modules=["query", "value"], task_type=None)
    model = get_peft_model(copy.deepcopy(base), config)
    layers = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
    return Attached(model, (), [PeftFactor(name, module) for name, module in layers])


def words():
    generator = torch.Generator().manual_seed(2)

    def loss(model):
        ids = torch.randint(0, 60, (8, 10), generator=generator)
        return model(input_ids=ids, labels=(ids[:, 0] > 30).long()).loss

    return loss


def trained(attached, kind, schedule, ratio):
    optimizer = torch.optim.AdamW([p for _, p in attached.trainable()], lr=5e-3, weight_decay=0.1, fused=True)
    train(attached.model, words(), optimizer, ALL[kind](**options(ratio, schedule)).hook(attached), 30)


@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("kind", sorted(MASKING))
def test_the_zeros_of_the_target_are_in_the_file(base, lora, tmp_path, kind, schedule, ratio):
    from peft import PeftModel

    trained(lora, kind, schedule, ratio)
    lora.model.save_pretrained(tmp_path / "a")
    dense = (tmp_path / "a" / DENSE_FILE).stat().st_size
    compact_folder(tmp_path / "a")
    assert (tmp_path / "a" / COMPACT_FILE).stat().st_size < dense

    expand_folder(tmp_path / "a", tmp_path / "b")
    tensors = load_file(tmp_path / "b" / DENSE_FILE)
    assert len(tensors) == 2 * len(lora.factors) == 8
    total = sum(p.numel() for _, p in lora.trainable())
    assert sum(t.numel() for t in tensors.values()) == total
    assert abs(sparsity_of(tensors) - ratio) * total <= 1 + 1e-6
    if kind != "global":
        assert all(abs(int(t.count_nonzero()) - kept(t.numel(), ratio)) <= 1 for t in tensors.values())

    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "b").eval()
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, lora.model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_components_are_gone_from_the_file(lora, tmp_path, schedule):
    before = sum(p.numel() for _, p in lora.trainable())
    lora.model.save_pretrained(tmp_path / "before")
    trained(lora, "structured", schedule, 0.5)
    lora.model.save_pretrained(tmp_path / "a")
    sizes = [(tmp_path / name / DENSE_FILE).stat().st_size for name in ("before", "a")]
    assert sizes[1] < 0.6 * sizes[0]
    compact_folder(tmp_path / "a")

    tensors = load_file(tmp_path / "a" / DENSE_FILE)
    assert all(RANK // 2 in tensor.shape for tensor in tensors.values())
    assert sparsity_of(tensors) == 0
    assert sparsity_of(tensors, dense_total=before) == 0.5
