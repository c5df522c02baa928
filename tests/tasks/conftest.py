"""Small tokenizers and networks with random weights."""

from __future__ import annotations

import pytest

WORDS = [f"w{i}" for i in range(60)]


def build_tokenizer(*, ends: bool = True, unk_is_eos: bool = False):
    """One token a word; ``ends`` puts [CLS] and [SEP] around a text, as BERT does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    unknown = {"unk_token": "[SEP]", "eos_token": "[SEP]"} if unk_is_eos else {"unk_token": "[UNK]"}
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **unknown)


@pytest.fixture(scope="session")
def word_tokenizer():
    return build_tokenizer


@pytest.fixture
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_config():
    from transformers import AutoConfig

    def config(architecture: str, **fields):
        encoder = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        both = {"d_model": 16, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3}
        for side in ("encoder", "decoder"):
            both |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 32}
        sizes = {
            "bert": encoder,
            "esm": {**encoder, "mask_token_id": 4, "position_embedding_type": "rotary"},
            "mobilebert": {
                **encoder,
                "embedding_size": 8,
                "intra_bottleneck_size": 16,
                "normalization_type": "layer_norm",
            },
            "bart": both,
            "mbart": both,
            "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3},
        }[architecture]
        return AutoConfig.for_model(architecture, **{"vocab_size": 65, "pad_token_id": 0} | sizes | fields)

    return config


@pytest.fixture
def network(tiny_config):
    """A tiny network for a task, its weights large enough that outputs differ."""
    import torch
    import transformers

    def build(task, architecture: str):
        torch.manual_seed(0)
        model = getattr(transformers, task.auto_class).from_config(
            tiny_config(architecture, **task.config_kwargs, initializer_range=0.5)
        )
        return model.eval()

    return build
