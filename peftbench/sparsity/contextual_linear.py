"""Linear layers of which some rows or columns are computed.

``y = x W' + b`` with W: (d, k). Rows chosen: ``y_I = x W_I' + b_I``. Columns chosen: ``y = x_J W_:J' + b``, or, where
an input that is left out stands at a constant m rather than at 0, ``y = x_J W_:J' + (b + W m - W_:J m_J)``. Gradients
are the exact ones of what is computed. A frozen weight is held in the dtype that is computed in and in the layout that
makes what is taken contiguous: a step copies chosen rows and no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from peftbench.methods import frozen
from peftbench.methods.four_bit import answer
from peftbench.methods.quantization import dense_weight
from peftbench.models.mixin import mix_in, take_out
from peftbench.sparsity.contextual_product import Both, Onto

Side = Literal["rows", "columns"]


@dataclass
class Beside:
    """A linear map of what goes into the first of two layers, that is added to what comes out of the second one."""

    weight: Tensor
    """S, shape (d, k)."""
    shift: Tensor
    """c, shape (d,): the second layer's own bias is in it."""
    taken: Tensor
    """The second layer's chosen columns, transposed, shape (chosen, d): they are needed to make S."""
    rows: Tensor | None = None
    """Which of all N tokens are computed by all channels instead, int64."""
    found: Tensor | None = None
    """``x S' + c``, shape (N, d), on its way from the first layer to the second."""
    read: Tensor | None = None
    """What goes into the first layer in these rows, shape (rows, k), from that layer."""
    dense: Tensor | None = None
    """What comes of it, shape (rows, d), for the second layer."""


@dataclass
class Choice:
    """Which channels are computed now; one object for all layers that must agree."""

    width: int
    """How many channels there are."""
    narrow: bool = False
    """Whether activations have the chosen channels only; otherwise they have all, and zeros where none was computed."""
    index: Tensor | None = None
    """int64, shape (chosen,); None computes all."""
    beside: Beside | None = None
    """What the frozen layers compute besides."""


@dataclass
class Slicing:
    """How one linear layer follows a choice."""

    choice: Choice
    side: Side
    trained: bool
    """Whether it is the weight of the trained branch (A or B), which follows a choice only where it is narrow."""
    mean: Tensor | None = None
    """m, shape (k,): what inputs that are left out stand at (columns of a frozen layer only); None is 0."""
    skipped: int = 0
    """Multiply-adds left out of the last forward pass."""
    held: dict[Any, Tensor] = field(default_factory=dict)
    """Copies of frozen tensors, by what they are and their dtype."""

    def stand_at(self, mean: Tensor) -> None:
        """Set `mean`, and forget what was made of the one before."""
        self.mean = mean
        self.held = {key: tensor for key, tensor in self.held.items() if key[0] not in ("mean", "shift")}


class Sliced:
    """Mixed in before a linear class: computes what the choice says, and all of it where there is none."""

    slicing: Slicing

    @property
    def in_part(self) -> bool:
        """Whether some rows or columns are left out now."""
        return self.slicing.choice.index is not None

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., k), or (..., chosen) after narrow columns -> (..., d), or (..., chosen) for narrow rows."""
        slicing = self.slicing
        choice, index = slicing.choice, slicing.choice.index
        if index is None or (slicing.trained and not choice.narrow):
            slicing.skipped = 0
            return super().forward(x)  # type: ignore[misc]  # a mixin
        dtype = frozen.compute_dtype(self, x)
        compute = self._columns if slicing.side == "columns" else self._rows
        y, taken = compute(x.to(dtype), index, None if slicing.trained else choice.beside)
        slicing.skipped = (x.numel() // x.shape[-1]) * (choice.width - index.numel()) * taken.shape[1]
        return answer(y, x) if _four_bit(self) else y

    def _rows(self, x: Tensor, index: Tensor, beside: Beside | None) -> tuple[Tensor, Tensor]:
        """The answer, and the weights that were taken."""
        taken, bias, choice = self.taken(index, x.dtype), self.own_bias(x.dtype), self.slicing.choice
        if bias is not None:
            bias = bias.index_select(0, index)
        if beside is None:
            y = functional.linear(x, taken, bias)
        else:
            y, beside.found, beside.read = Both.apply(x, taken, bias, beside.weight, beside.shift, beside.rows)
        if not choice.narrow:
            y = y.new_zeros(*y.shape[:-1], choice.width).index_copy_(-1, index, y)
        return y, taken

    def _columns(self, x: Tensor, index: Tensor, beside: Beside | None) -> tuple[Tensor, Tensor]:
        """See `_rows`."""
        part = x if self.slicing.choice.narrow else x.index_select(-1, index)
        if beside is None:
            taken = self.taken(index, x.dtype)
            return functional.linear(part, taken.T, self._bias_without(index, taken)), taken
        y = Onto.apply(beside.found, part.flatten(0, -2), beside.taken, beside.dense, beside.rows)
        beside.found = beside.dense = None
        return y.view(*x.shape[:-1], -1), beside.taken

    def taken(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Chosen rows of W, shape (chosen, k), or its chosen columns transposed, shape (chosen, d)."""
        weight: Tensor = self.weight  # type: ignore[attr-defined]  # the linear layer has it
        lies_across = isinstance(self, Conv1D) != (self.slicing.side == "columns")
        if self.slicing.trained:
            return weight.index_select(1, index).T if lies_across else weight.index_select(0, index)
        if _four_bit(self):
            dense = dense_weight(weight, dtype)
            return dense.index_select(1, index).T if lies_across else dense.index_select(0, index)
        return self._held("weight", weight.T if lies_across else weight, dtype).index_select(0, index)

    def own_bias(self, dtype: torch.dtype) -> Tensor | None:
        """b, as it is computed with."""
        bias: Tensor | None = self.bias  # type: ignore[attr-defined]  # the linear layer has it
        if bias is None:
            return None
        return bias.to(dtype) if bias.requires_grad else self._held("bias", bias, dtype)

    def _bias_without(self, index: Tensor, taken: Tensor) -> Tensor | None:
        """``b + W m - W_:J m_J``, shape (d,), in the dtype of ``taken``: the chosen columns J, shape (chosen, d)."""
        bias, mean, dtype = self.own_bias(taken.dtype), self.slicing.mean, taken.dtype
        if mean is None:
            return bias
        shift = self.slicing.held.get(key := ("shift", dtype))
        if shift is None:
            shift = self.slicing.held[key] = self._shift(mean).to(dtype)
        rest = shift - (self._held("mean", mean, dtype).index_select(0, index)[None] @ taken)[0]
        return rest if bias is None else bias + rest

    @torch.no_grad()
    def _shift(self, mean: Tensor) -> Tensor:
        """``W m``, shape (d,)."""
        weight = base_weight(self)
        wide = torch.promote_types(mean.dtype, weight.dtype)
        with torch.autocast(mean.device.type, enabled=False):
            return weight.to(wide) @ mean.to(wide)

    def _held(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A frozen tensor in ``dtype`` and contiguous: itself where it is so already, else a copy made once."""
        key = (name, dtype, tensor.device)
        if key not in self.slicing.held:
            self.slicing.held[key] = tensor.detach().to(dtype).contiguous()
        return self.slicing.held[key]


def base_weight(layer: Any) -> Tensor:
    """W0, shape (d, k), of a linear layer or of PEFT's layer around one; dequantized where it is 4-bit."""
    return frozen.weight(base_linear(layer))


def base_linear(layer: Any) -> Any:
    """The frozen linear layer in PEFT's layer, or ``layer`` itself."""
    return layer.get_base_layer() if is_adapted(layer) else layer


def is_adapted(layer: nn.Module) -> bool:
    """Whether a trained branch is added to this layer."""
    return isinstance(layer, LoraLayer)


def slice_layer(layer: Any, choice: Choice, side: Side) -> Slicing:
    """Let ``layer`` follow ``choice``, in place, its trained branch too; names of parameters stay what they are."""
    if is_adapted(layer):
        for inner in (layer.lora_B if side == "rows" else layer.lora_A).values():
            _slice(inner, Slicing(choice, side, trained=True))
    slicing = Slicing(choice, side, trained=False)
    _slice(base_linear(layer), slicing)
    return slicing


def _slice(layer: Any, slicing: Slicing) -> None:
    mix_in(layer, Sliced)
    layer.slicing = slicing


def uninstall(model: nn.Module) -> None:
    """Undo `slice_layer` in all of ``model``."""
    for module in model.modules():
        if isinstance(module, Sliced):
            take_out(module, Sliced)
            del module.slicing


def _four_bit(layer: Any) -> bool:
    return getattr(layer.weight, "quant_state", None) is not None
