"""Changing what one module of a network computes: its class gets another before it, its weights and names stay."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def mix_in(module: nn.Module, mixin: type) -> None:
    """Let ``mixin`` come before the class of ``module``, in place."""
    module.__class__ = _joined(mixin, type(module))  # type: ignore[arg-type]  # a class is hashable


def take_out(module: nn.Module, mixin: type) -> None:
    """Undo `mix_in`, if it is the last that was mixed in; any other module stays as it is."""
    first, *others = type(module).__bases__
    if first is mixin:
        (module.__class__,) = others


@cache
def _joined(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {"__module__": kind.__module__})
