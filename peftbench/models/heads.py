"""The task head of a network: its modules, what a checkpoint lacks of it and before it, the order of its classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from peftbench.errors import UserError, first_of

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


def class_names(config: PretrainedConfig) -> tuple[str, ...]:
    """What a configuration calls its classes, in their order; none where it has transformers' LABEL_0, LABEL_1, ..."""
    names = tuple(str(name) for _, name in sorted((getattr(config, "id2label", None) or {}).items()))
    return () if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names


def put_in_order(model: nn.Module, kept: Sequence[str], own: Sequence[str], wanted: Sequence[str]) -> str:
    """Let the output layer of a head that is a checkpoint's have its rows in the order of the data's classes.

    Spaces and capitals are no difference between two names. Where a name is another one, nobody knows which row is
    whose, and all stay where they are.

    Args:
        kept: modules of the head whose weights are the checkpoint's.
        own, wanted: names of the classes, of the checkpoint and of the data; either may be unknown (empty).
    Returns:
        What a reader must know of it; empty where the order is the same, or no names are known.
    """
    before, after = ([name.strip().casefold() for name in names] for names in (own, wanted))
    layers = [layer for name in kept for layer in model.get_submodule(name).modules() if _rows(layer) == len(after)]
    if not (before and after and layers) or before == after:
        return ""
    lists = f"({first_of(wanted)}) in the data, ({first_of(own)}) in the checkpoint"
    if sorted(before) != sorted(after) or len(set(after)) < len(after):
        return f"Its classes have other names and stay in their order: {lists}."
    order = [before.index(name) for name in after]
    for parameter in layers[-1].parameters(recurse=False):
        parameter.data = parameter.data[order]
    return f"Its classes were put into the order of the data's: {lists}."


def _rows(layer: nn.Module) -> int | None:
    """How many outputs a dense layer has; None: it is another kind of module."""
    weight = getattr(layer, "weight", None)
    return len(weight) if weight is not None and weight.dim() == 2 else None


def is_of(module: str, parameters: Iterable[str]) -> bool:
    """Whether any of these parameters is in that module."""
    return any(name.startswith(f"{module}.") for name in parameters)
