"""What a step is timed on: a network's shape, a batch's shape, and which layers are adapted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from peftbench.cli.paths import CONF, register_plugins
from peftbench.context import Context
from peftbench.errors import UserError
from peftbench.record import Record
from peftbench.tasks.base import Batch, Task
from peftbench.tasks.causal_lm import CausalLM
from peftbench.tasks.classification import SequenceClassification
from peftbench.tasks.language_modeling import IGNORED

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import DictConfig

    from peftbench.config import RunConfig

Targets = Literal["attention", "all-linear"]
TARGETS: tuple[Targets, ...] = ("attention", "all-linear")
RANK = 8
GPU_STEPS = 20
"""Timed steps of a turn on a GPU, where they are short."""
# Small: with a learning rate that learns, tens of steps on one batch end at gradients that real training never has.
LEARNING_RATE = 1e-5
FIRST_WORD = 5
"""Token ids below are special ones."""


@dataclass(frozen=True)
class Workload:
    """A network and the batch it is given, without padding."""

    name: str
    model: tuple[str, ...]
    """Which base network, as overrides of the configuration."""
    batch_size: int
    length: int
    """Tokens an item."""
    steps_per_turn: int
    """Timed steps of a turn on a CPU."""

    @property
    def title(self) -> str:
        """What pages call it."""
        return f"{self.name}, {self.batch_size} × {self.length} tokens"


def shape(
    name: str, architecture: str, hidden: int, layers: int, heads: int, vocabulary: int = 30522
) -> tuple[str, ...]:
    """Overrides that make a network of random weights, by default with a vocabulary as large as BERT's."""
    return (
        "model=tiny",
        f"model.name={name}",
        f"model.architecture={architecture}",
        f"model.hidden_size={hidden}",
        f"model.intermediate_size={4 * hidden}",
        f"model.layers={layers}",
        f"model.heads={heads}",
        f"model.vocab_size={vocabulary}",
    )


MINILM = Workload("MiniLM", ("model=minilm",), 32, 16, 5)
MINILM_SHAPE = Workload("MiniLM", shape("minilm-shape", "bert", 384, 6, 12), 32, 16, 5)
DISTILBERT = Workload("DistilBERT", shape("distilbert-shape", "distilbert", 768, 6, 12), 8, 256, 2)
# IMDB: whole reviews, 290 tokens on average when cut to 512.
LONG = (
    Workload("MiniLM", MINILM.model, 16, 256, 2),
    Workload("MiniLM", MINILM.model, 8, 512, 2),
    DISTILBERT,
)
BERT_BASE = Workload("BERT-base", shape("bert-base-shape", "bert", 768, 12, 12), 64, 256, 2)
"""For a GPU, which DistilBERT's small batch leaves waiting for the host most of the time."""
TINY = Workload("tiny", ("model=tiny",), 4, 8, 1)
# Blocks of a corpus, as WikiText-2 is trained on.
DISTILGPT2 = Workload("DistilGPT-2", shape("distilgpt2-shape", "gpt2", 768, 6, 12, 50257), 4, 256, 2)
TINY_GPT2 = Workload("tiny", ("model=tiny", "model.architecture=gpt2"), 4, 8, 1)


def workloads(quick: bool, device: str) -> tuple[Workload, ...]:
    """What is measured on a device: MiniLM's own weights where their package is installed, else its shape."""
    if quick:
        return (TINY,)
    try:
        # A packaged model has it, and it is read for the error that it raises where the package is not there.
        Case(MINILM, "attention", "cpu").configured("lora").model.source  # type: ignore[attr-defined]  # noqa: B018
        minilm = MINILM
    except UserError:
        minilm = MINILM_SHAPE
    return (minilm, *(_for_gpus(device) or (DISTILBERT,)))


def long_workloads(quick: bool, device: str) -> tuple[Workload, ...]:
    """The same at the lengths of IMDB."""
    if quick:
        return (TINY,)
    model = workloads(quick, device)[0].model
    found = tuple(replace(each, model=model) if each.model == MINILM.model else each for each in LONG)
    return (*found, *_for_gpus(device))


def _for_gpus(device: str) -> tuple[Workload, ...]:
    return (BERT_BASE,) if device.startswith("cuda") else ()


@dataclass(frozen=True)
class Case:
    """One setting that all contenders share (picklable: memory is measured in other processes)."""

    workload: Workload
    targets: Targets
    device: str

    @property
    def task(self) -> Task:
        """Two classes."""
        return SequenceClassification(("negative", "positive"), self.workload.length, 0)

    def steps_per_turn(self, quick: bool) -> int:
        """Timed steps each time that a contender has its turn."""
        return GPU_STEPS if self.device.startswith("cuda") and not quick else self.workload.steps_per_turn

    def configured(self, method: str, *more: str) -> RunConfig:
        """The configuration of a run of one of our methods here; what is said neither here nor by ``more`` overrides
        is peftbench's default."""
        return compose(
            *self.workload.model,
            f"method={method}",
            f"method.targets={self.targets}",
            f"rank={RANK}",
            f"trainer.lr={LEARNING_RATE}",
            f"trainer.batch_size={self.workload.batch_size}",
            f"device={self.device}",
            "dataset=movie_reviews",
            f"dataset.max_length={self.workload.length}",
            "tracker=none",
            *more,
        )

    def context(self, method: str, *more: str) -> Context:
        """What a run of that method shares between its phases: device, precision, attention."""
        from peftbench.measuring import precision

        run, device = self.configured(method, *more), torch.device(self.device)
        record = Record(run.run_id, run.sweep, "ok", run.dump(), run.hash, run.axes)
        dtype = precision.resolve(run.trainer.precision, device)
        return Context(run, Path(), record, lambda phase, done, total: None, device, dtype)

    def batch(self, vocabulary: int) -> Batch:
        """Random words and labels on the device, the same for every contender."""
        generator = torch.Generator().manual_seed(0)
        size = (self.workload.batch_size, self.workload.length)
        ids = torch.randint(FIRST_WORD, vocabulary, size, generator=generator)
        labels = torch.randint(0, 2, size[:1], generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return Batch(inputs, labels, np.arange(size[0]), ids.numel()).to(torch.device(self.device))


@dataclass(frozen=True)
class LanguageCase(Case):
    """The same for a causal language model: every token but the first is predicted."""

    kind: ClassVar[type[CausalLM]] = CausalLM
    """Whose loss it is."""

    @property
    def task(self) -> Task:
        """Blocks as long as the workload says."""
        return self.kind(self.workload.length, 0, None, max(1, self.workload.length // 2))

    def batch(self, vocabulary: int) -> Batch:
        """See `Case.batch`; at each position the label is the next token."""
        found = super().batch(vocabulary)
        labels = found.inputs["input_ids"].roll(-1, 1)
        labels[:, -1] = IGNORED
        return replace(found, labels=labels, positions=(labels.flatten() != IGNORED).nonzero().flatten())


def swept(overrides: Sequence[str]) -> tuple[ConfigLoaderImpl, DictConfig]:
    """Hydra's loader and the configuration of a grid, as Hydra hands both to a sweeper."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode

    register_plugins()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    return loader, loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)


def compose(*overrides: str) -> RunConfig:
    """The checked configuration that the command line would make of ``overrides``.

    Raises:
        UserError: one of them is wrong.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from peftbench.cli.overrides import rewrite
    from peftbench.sweep.grid import load

    register_plugins()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(hydra_compose("config", rewrite(overrides)))
