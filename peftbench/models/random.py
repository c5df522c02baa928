"""Small networks with random weights, for tests and pure timing: what they learn says nothing about a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from peftbench.models.base import Loaded, Model
from peftbench.models.heads import fresh_modules, head_modules
from peftbench.models.pretrained import adapted_modules, task_fields

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from peftbench.tasks.base import Task


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The one architecture offered here that PEFT's own table does not know.
DEFAULT_TARGETS = {"distilbert": ("q_lin", "v_lin")}


class Random(Model):
    """A freshly initialised encoder or decoder, the same for every run seed."""

    architecture: Literal["bert", "distilbert", "gpt2"]
    hidden_size: int = Field(ge=2)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=2)
    vocab_size: int = Field(ge=261)
    max_positions: int = Field(ge=8)
    init_seed: int = Field(ge=0, lt=2**31)

    @model_validator(mode="after")
    def _heads_divide(self) -> Random:
        if self.hidden_size % self.heads:
            raise ValueError("model.hidden_size must be a multiple of model.heads")
        return self

    def config(self) -> PretrainedConfig:
        """The network's configuration, with special tokens where `tokenizer` has them."""
        from transformers import AutoConfig

        fields = {
            "bert": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            "distilbert": ("dim", "n_layers", "n_heads", "hidden_dim"),
            "gpt2": ("n_embd", "n_layer", "n_head", "n_inner"),
        }[self.architecture]
        sizes = dict(zip(fields, (self.hidden_size, self.layers, self.heads, self.intermediate_size), strict=True))
        sizes["n_positions" if self.architecture == "gpt2" else "max_position_embeddings"] = self.max_positions
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
        return AutoConfig.for_model(self.architecture, vocab_size=self.vocab_size, **sizes, **special)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """One token a byte: takes any text, needs no vocabulary file, is the same on every machine."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {symbol: index for index, symbol in enumerate([*SPECIAL, *symbols])}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        if self.architecture != "gpt2":
            backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
        ends = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
        return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=self.max_positions, **names, **ends)

    def head(self, task: Task) -> tuple[str, ...]:
        """See `Model.head`."""
        return fresh_modules(head_modules(self.config(), task), (), task)

    def build(self, task: Task, load_kwargs: Mapping[str, Any]) -> Loaded:
        """See `Model.build`; goes through a folder, so that every load argument means what it means elsewhere."""
        import tempfile

        import torch
        import transformers

        config = self.config()
        task_fields(config, task)
        auto = getattr(transformers, task.auto_class)
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
            torch.manual_seed(self.init_seed)
            auto.from_config(config).save_pretrained(folder)
            model = auto.from_pretrained(folder, use_safetensors=True, **load_kwargs)
        model.name_or_path = ""  # an adapter names its base, and that folder is gone
        identity = {"id": f"tiny-{self.architecture}", "architecture": self.architecture, "random_weights": True}
        targets = adapted_modules(self.targets or DEFAULT_TARGETS.get(self.architecture), config)
        return Loaded(model, self.head(task), targets, identity)
