"""A device that is not the CPU, for machines that have no other: what is computed there must be told to be there.

Its tensors hold the CPU's, which compute for them, and refuse to meet any; what a GPU would have to be waited for is
counted. Not for 4-bit weights, whose class is its own. Import it in a process of its own: torch gets a device for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

if TYPE_CHECKING:
    from peftbench.config import RunConfig

NAME = "elsewhere"
TRANSFERS = ("_to_copy", "copy_")
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")
"""Whose answers, or their sizes, the host must know."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
"""So must it where the index is a mask."""


class Backend(_DummyBackendModule):
    """What torch asks of a device's module: torch's own stub, and what autocast, checkpoints and seeds want."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


_setup_privateuseone_for_python_backend(rename=NAME, backend_module=Backend())
torch.__future__.set_swap_module_params_on_conversion(True)  # a moved parameter stays the object that is tied
DEVICE = torch.device(NAME, 0)


class Elsewhere(torch.Tensor):
    """A tensor on the device; ``here`` is the CPU's that holds its values."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Elsewhere:
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, here.shape, device=DEVICE, **layout)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("used outside of Device")


class Device(TorchDispatchMode):
    """While active, there is the device.

    Raises:
        RuntimeError: an operation meets tensors of both devices (a number may be of either, as with CUDA).
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        """By operation: how often the host would have had to wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, wanted = func.overloadpacket.__name__, kwargs.get("device")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
        stays = torch.device(wanted).type == NAME if wanted else bool(there)
        if name == "copy_":
            stays = isinstance(args[0], Elsewhere)
        if not (there or stays):
            return func(*args, **kwargs)
        if there and name not in TRANSFERS and any(t.dim() for t in tensors if not isinstance(t, Elsewhere)):
            raise RuntimeError(f"{name}: tensors of both devices, {[(t.device, tuple(t.shape)) for t in tensors]}")
        masked = name in INDEXING and any(index.dtype == torch.bool for index in args[1] if index is not None)
        if name in ASKING or masked or not stays:
            self.waits[name] += 1
        found = func(*tree_map(_here, args), **_computed_here(kwargs))
        if not stays:
            return found
        known = {id(tensor.here): tensor for tensor in there}  # what is changed in place stays the tensor that it is
        return tree_map(lambda x: _there(x, known) if isinstance(x, torch.Tensor) else x, found)


def _there(found: torch.Tensor, known: Mapping[int, Elsewhere]) -> Elsewhere:
    return known[id(found)] if id(found) in known else Elsewhere(found)


def _here(value: Any) -> Any:
    return value.here if isinstance(value, Elsewhere) else value


def _computed_here(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: torch.device("cpu") if key == "device" and value else _here(value) for key, value in kwargs.items()}


def carried_out(run: RunConfig) -> tuple[dict[str, Any], list[int]]:
    """Metrics of ``run`` on the device, and how often the host would have waited in each training step."""
    from test_run import carried_out

    from peftbench import run as running
    from peftbench.training.loop import Loop

    waits: list[int] = []
    step = Loop._step

    def counted(self: Loop, *args: Any) -> torch.Tensor:
        before = device.waits.total()
        loss = step(self, *args)
        waits.append(device.waits.total() - before)
        return loss

    there = patch.object(running, "resolve_device", lambda name: DEVICE)
    with there, patch.object(Loop, "_step", counted), Device() as device:
        record, _ = carried_out(run)
    assert record.environment["device"] == str(DEVICE)
    return record.metrics, waits
