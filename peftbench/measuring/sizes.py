"""Counts and bytes: parameters of adapter and head apart, the base in memory, the saved files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.methods.base import Attached

if TYPE_CHECKING:
    import torch
    from torch import nn

NOT_SHIPPED = ("README.md",)
"""Files that PEFT writes beside an adapter and nobody needs to load it."""


def parameter_counts(attached: Attached) -> dict[str, int]:
    """``params/adapter``, ``params/head``, ``params/trainable``, ``params/total`` and ``params/adapter_nonzero``.

    The total counts logical parameters: two of a 4-bit weight share a byte and are still two. PEFT's frozen copies of
    trained modules (``original_module``) are not part of the network and not counted.
    """
    adapter = sum(parameter.numel() for parameter in attached.adapter_state().values())
    head = sum(parameter.numel() for parameter in attached.head_state().values())
    return {
        "params/adapter": adapter,
        "params/head": head,
        "params/trainable": adapter + head,
        "params/total": sum(logical_numel(parameter) for _, parameter in _network(attached.model)),
        "params/adapter_nonzero": adapter_nonzero(attached),
    }


def adapter_nonzero(attached: Attached) -> int:
    """Adapter parameters that are not zero: count it on the checkpoint that is evaluated."""
    return sum(int(tensor.count_nonzero()) for tensor in attached.adapter_state().values())


def base_bytes(model: nn.Module, head: tuple[str, ...]) -> int:
    """``size/base_bytes``: memory of the weights of a base model *before* a method is attached, its head left out.

    4-bit weights count as the bytes they are packed into plus their quantization state (block scales, their own
    scales, code tables).
    """
    loaded = Attached(model, head)
    return sum(_bytes(parameter) for name, parameter in _network(model) if not loaded.is_head(name))


def file_bytes(folder: Path) -> dict[str, int]:
    """``size/adapter_bytes`` and ``size/head_bytes`` of what `Method.save` wrote: nothing if the folder is not there.

    Files whose name starts with ``head`` are the head; all others (tensors and ``adapter_config.json``) are the
    adapter, but for the model card that PEFT adds.
    """
    if not folder.is_dir():
        return {}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_SHIPPED]
    head = sum(path.stat().st_size for path in files if path.name.startswith("head"))
    return {"size/adapter_bytes": sum(path.stat().st_size for path in files) - head, "size/head_bytes": head}


def logical_numel(parameter: torch.Tensor) -> int:
    """How many weights a parameter stands for (of a bitsandbytes 4-bit weight: those before packing)."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _network(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if ".original_module." not in f".{name}")


def _bytes(parameter: torch.Tensor) -> int:
    own = parameter.numel() * parameter.element_size()
    return own + _state_bytes(getattr(parameter, "quant_state", None))


def _state_bytes(state: Any) -> int:
    """Bytes of a bitsandbytes ``QuantState``: its scales, offset and code table, and those of its nested state."""
    if state is None:
        return 0
    tensors = (getattr(state, name, None) for name in ("absmax", "code", "offset"))
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
    return own + _state_bytes(getattr(state, "state2", None))
