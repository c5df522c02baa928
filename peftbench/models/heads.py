"""The task head of a network: which modules it is made of, and what of it and before it a checkpoint lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftbench.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from peftbench.tasks.base import Task


def head_modules(config: PretrainedConfig, task: Task) -> tuple[str, ...]:
    """Names of the modules with parameters that this task's network has beside its base."""
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, task.auto_class).from_config(config)
    return tuple(
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and next(module.parameters(), None) is not None
    )


def fresh_modules(head: tuple[str, ...], missing: Iterable[str], task: Task) -> tuple[str, ...]:
    """The head modules to train: always for classes, only those the checkpoint lacked for language modelling.

    A decoder tied to the embeddings has no weight of its own to be missing, so it stays frozen with the base.
    """
    if task.peft_type == "SEQ_CLS":
        return head
    lacking = {key.rpartition(".")[0] for key in missing if key.endswith(".weight")}
    return tuple(sorted(name for name in lacking if name.split(".")[0] in head))


def pooler_modules(model: nn.Module, head: Iterable[str], lacking: Iterable[str], what: str) -> tuple[str, ...]:
    """Modules between the base and its head that the checkpoint lacks, as one does that was trained without them.

    They are trained: as they are they would be random, and stay so.

    Args:
        lacking: parameters that the checkpoint does not have, or of another shape.
        what: the network, as the user wrote it.
    Raises:
        UserError: it lacks other parts of the base too.
    """
    absent = sorted(key for key in lacking if not any(is_of(name, [key]) for name in head))
    if others := [key for key in absent if "pooler" not in key]:
        raise UserError(
            f"{what}: the checkpoint does not have all weights of its network ({len(others)} are missing or of another "
            f"shape, such as {others[0]}); write a folder with the weights and the configuration of one network"
        )
    found = tuple(dict.fromkeys(key.rpartition(".")[0] for key in absent))
    for name in found:
        _make_plain(model, name)
    return found


def _make_plain(model: nn.Module, name: str) -> None:
    """Give a layer that was to be quantized, and had nothing to quantize, back its class."""
    from torch import nn

    layer = model.get_submodule(name)
    if isinstance(layer, nn.Linear) and type(layer) is not nn.Linear:
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device=layer.weight.device)
        plain.load_state_dict(layer.state_dict())
        model.set_submodule(name, plain)


def is_of(module: str, parameters: Iterable[str]) -> bool:
    """Whether any of these parameters is in that module."""
    return any(name.startswith(f"{module}.") for name in parameters)
