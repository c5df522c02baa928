"""Tiny random base networks on disk, loaded as a model would load them, and a stand-in for the run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import AutoConfig

from peftbench.config import Rank
from peftbench.errors import UserError
from peftbench.methods.base import Attached, Method
from peftbench.methods.peft import Peft
from peftbench.methods.quantization import prepare
from peftbench.models.base import Loaded

CONF = Path(__file__).resolve().parents[2] / "conf" / "method"
METHODS = sorted(path.stem for path in CONF.glob("*.yaml"))
VOCABULARY = 60
WIDE = 0.3  # standard deviation of the weights: wide, so that each of them matters in float32

FIELDS: dict[str, dict[str, Any]] = {
    "distilbert": dict(
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        **dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0),
    ),
    "bert": dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    ),
    "gpt2": dict(
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_inner=64,
        n_positions=64,
        pad_token_id=0,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    ),
}
HEADS = {"distilbert": ("pre_classifier", "classifier"), "bert": ("classifier",), "gpt2": ("score",)}
TARGETS = {"distilbert": ("q_lin", "v_lin"), "bert": ("query", "value"), "gpt2": ("c_attn",)}


class Base:
    """One architecture, saved once, loaded afresh as often as wanted."""

    def __init__(self, architecture: str, folder: Path) -> None:
        self.folder = str(folder / architecture)
        self.head, self.targets = HEADS[architecture], TARGETS[architecture]
        config = AutoConfig.for_model(
            architecture, vocab_size=VOCABULARY, initializer_range=WIDE, **FIELDS[architecture]
        )
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(self.folder)

    def load(self, method: Method | None = None, dtype: torch.dtype = torch.float32) -> Loaded:
        kwargs = {} if method is None else method.load_kwargs(run(), self.head, dtype)
        model = AutoModelForSequenceClassification.from_pretrained(self.folder, **kwargs)
        prepare(model)
        return Loaded(model.eval(), self.head, self.targets, {})

    def attach(self, method: Method, stand_in: Any = None) -> Attached:
        """Attached in eval mode; skips the test where PEFT's tuner does not take GPT-2's Conv1D."""
        try:
            return self._attach(method, stand_in)
        except UserError as error:
            if isinstance(method, Peft) and "Conv1D" in str(error):
                pytest.skip(str(error))
            raise

    def _attach(self, method: Method, stand_in: Any) -> Attached:
        attached = method.attach(self.load(method), stand_in or run())
        attached.model.eval()
        return attached


def method(name: str, **changes: Any) -> Method:
    """The method of ``conf/method/<name>.yaml``."""
    mapping: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml").method)
    return Method.load({**mapping, **changes})


def run(sparse: bool = False, **rank: Any) -> Any:
    """What a method reads of a run."""
    given = {"value": 4, "alpha_ratio": 1.5, **rank}
    return SimpleNamespace(rank=Rank(**given), sparsity=SimpleNamespace(active=sparse), device="cpu")


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (5, 7), the last column padding-free, and labels (5,)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (5, 7), generator=generator)
    return ids, torch.randint(0, 2, (5,), generator=generator)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch()[0]).logits.clone()


def loss(model: torch.nn.Module) -> torch.Tensor:
    ids, labels = batch()
    return torch.nn.functional.cross_entropy(model(input_ids=ids).logits.float(), labels)


def train(attached: Attached, steps: int = 3, lr: float = 0.05) -> list[float]:
    """A few steps of AdamW; returns the loss before each, and after the last."""
    attached.model.train()
    optimizer = torch.optim.AdamW([p for _, p in attached.trainable()], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(attached.model)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    attached.model.eval()
    return [*losses, loss(attached.model).item()]
