"""What a model is: a tokenizer and a base network, loaded from the hub, a folder or a package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from peftbench.component import Component

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from peftbench.tasks.base import Task


@dataclass
class Loaded:
    """A base network for one task."""

    model: PreTrainedModel
    head: tuple[str, ...]
    """Module names of the task head that must be trained: ``("pre_classifier", "classifier")`` for DistilBERT."""
    targets: tuple[str, ...]
    """Module names that ``targets=attention`` adapts: ``("q_lin", "v_lin")`` for DistilBERT."""
    identity: dict[str, Any]
    """What the record says of it: id or path, revision, SHA-256 of the weights, ``random_weights``."""
    task_type: str | None = None
    """PEFT's name of the task; `peftbench.run.load` says it."""


class Model(Component, ABC):
    """One base model. Most are only a YAML file in ``conf/model`` for `peftbench.models.pretrained.Pretrained`."""

    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Modules that ``method.targets=attention`` adapts; None asks PEFT's own table by architecture."""

    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with a pad token.

        Raises:
            UserError: it cannot be had (no hub, a missing folder).
        """

    @abstractmethod
    def config(self) -> PretrainedConfig:
        """The network's configuration, without its weights.

        Raises:
            UserError: it cannot be had (no hub, a missing folder).
        """

    @abstractmethod
    def head(self, task: Task) -> tuple[str, ...]:
        """Module names of the task head, known without loading weights."""

    @abstractmethod
    def build(self, task: Task, load_kwargs: Mapping[str, Any]) -> Loaded:
        """The base network with a head for ``task`` (fresh where the checkpoint has none), on the CPU unless
        ``load_kwargs`` says otherwise.

        Raises:
            UserError: the weights cannot be had or are corrupt.
        """
