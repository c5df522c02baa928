"""What feed-forward and attention blocks have in common: they choose channels when their input comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from peftbench.models.layout import Layout
from peftbench.sparsity import contextual_predictor as predictor
from peftbench.sparsity.contextual_linear import Slicing


@dataclass
class Now:
    """What all blocks must know of the forward pass at hand."""

    sparse: bool = False
    """Whether training is in its sparse phase."""
    only: Block | None = None
    """The one block that is to be sparse, whatever the mode: calibration."""
    weights: Tensor | None = None
    """See `contextual_predictor.token_weights`."""
    outputs: Tensor | None = None
    """Where the head reads each sequence, int64, shape (sequences,), if these tokens are to be dense; else None."""


class Block(ABC):
    """One feed-forward or attention block of one layer."""

    kind: ClassVar[str]
    inner: nn.Module
    """The layer of which columns are chosen: what goes into it is what is left out."""

    def __init__(self, now: Now, number: int, layer: nn.Module, layout: Layout) -> None:
        self.now, self.number, self.layer, self.layout = now, number, layer, layout
        self._ratio, self.kept = 0.0, 0
        self.moments: predictor.Moments | None = None
        """Of what goes into the inner layer; None until they are measured."""
        self._predict: predictor.Predictor | None = None
        self._slicings: list[Slicing] = []
        """How the layers follow; the inner one is the last."""
        self._handles: list[RemovableHandle] = []

    @property
    def name(self) -> str:
        """As the record has it."""
        return f"{self.number}.{self.kind}"

    @property
    def ratio(self) -> float:
        """Fraction of channels to leave out."""
        return self._ratio

    @ratio.setter
    def ratio(self, value: float) -> None:
        # How many are computed (of each head) is no expression of a fraction: torch.compile would make it a symbol.
        self._ratio, self.kept = value, predictor.channels_kept(self.each, value)

    @property
    @abstractmethod
    def each(self) -> int:
        """Of how many channels that fraction is left out."""

    @abstractmethod
    def skipped_at(self, ratio: float) -> int:
        """Multiply-adds a token that are left out at that ratio."""

    @property
    def skipped(self) -> int:
        """Multiply-adds left out of the last forward pass, as its layers saw them."""
        return sum(slicing.skipped for slicing in self._slicings)

    @abstractmethod
    def _enter(self, x: Tensor | None) -> None:
        """Choose for the hidden states x (sequences, length, k), or compute everything."""

    @abstractmethod
    def _weights(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight (d, k) and bias of each layer whose output is predicted."""

    def learn(self, rank: int) -> None:
        """Make the predictor; needed once, before the block is sparse."""
        weights, biases = zip(*self._weights(), strict=True)
        self._predict = predictor.Predictor.of(weights, biases, rank)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The forward pre-hook of the module that is given the hidden states."""
        wanted = self.now.only is self if self.now.only is not None else self.now.sparse and module.training
        if wanted and self.ratio > 0:
            self._enter(args[0] if args else kwargs["hidden_states"])
        else:
            self._enter(None)
            for slicing in self._slicings:
                slicing.skipped = 0

    def leave(self) -> None:
        """Take the hooks out of the network, whose modules are as wide again as they were."""
        self._enter(None)
        for handle in self._handles:
            handle.remove()

    def stand_at(self, moments: predictor.Moments) -> None:
        """Channels that are left out stand at their means from now on, and are chosen accordingly."""
        self.moments = moments
        self._slicings[-1].stand_at(moments.mean)

    def means(self, x: Tensor) -> Tensor:
        """The mean of each sequence, float32, shape (sequences, k)."""
        return predictor.sequence_means(x, self.now.weights)

    def predicted(self, means: Tensor) -> Tensor:
        """Activations predicted for the means of sequences, float32, shape (layers, sequences, d)."""
        assert self._predict is not None
        return self._predict(means)
