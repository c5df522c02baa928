"""Finding target layers, injecting PEFT's, saving, loading and merging them (imported when a run starts)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.errors import UserError
from peftbench.methods import quantization

if TYPE_CHECKING:
    from peftbench.methods.base import Attached
    from peftbench.methods.tuner import Targets
    from peftbench.models.base import Loaded

PREFIX = "base_model.model."
"""What PEFT puts before every name of the base network."""
ADAPTER = "default"
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"


@dataclass(frozen=True)
class Sites:
    """Where a method's layers go."""

    layers: tuple[str, ...]
    """Full dotted names in the base network."""
    targets: list[str]
    """The same as PEFT's ``target_modules``."""
    transposed: bool
    """Whether a layer keeps its weight as (in, out), as GPT-2's Conv1D does (PEFT's ``fan_in_fan_out``)."""


def find_sites(loaded: Loaded, targets: Targets, *, linear_only: bool = True) -> Sites:
    """The layers that ``targets`` means; the task head and the output embedding are never among them.

    Raises:
        UserError: there is no linear layer, a name is in no module, or nobody has said what ``attention`` means for
            this network; the message lists the names that exist.
    """
    linear = linear_layers(loaded)
    wanted = linear if targets == "all-linear" else list(loaded.targets if targets == "attention" else targets)
    if not linear and (linear_only or not wanted):
        raise UserError(
            f"method.targets: there is no linear layer to adapt in {type(loaded.model).__name__}; "
            "write method=full, which needs none, or choose another model"
        )
    if targets == "all-linear":
        return _sites(loaded, linear, linear)
    candidates = linear if linear_only else [name for name, _ in loaded.model.named_modules() if not _in(name, loaded)]
    layers = [name for name in candidates if any(_matches(name, target) for target in wanted)]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if not wanted:
        raise UserError(
            f"method.targets=attention: neither model.targets nor PEFT says which layers that are in "
            f"{type(loaded.model).__name__}; write method.targets=all-linear or a list out of [{', '.join(known)}]"
        )
    if missing := [target for target in wanted if not any(_matches(name, target) for name in layers)]:
        # "attention" is the model's to say: its YAML was written for another network then.
        option, other = ("model", "null") if targets == "attention" else ("method", "all-linear")
        raise UserError(
            f"{option}.targets: there is no layer named {', '.join(missing)} in {type(loaded.model).__name__}; "
            f"write {other} or a list out of [{', '.join(known)}]"
        )
    # PEFT takes every module whose name ends with a target, the head's too: then only full names will do.
    everywhere = [name for name, _ in loaded.model.named_modules() if any(_matches(name, target) for target in wanted)]
    return _sites(loaded, layers, wanted if set(everywhere) == set(layers) else layers)


def linear_layers(loaded: Loaded) -> list[str]:
    """Full names of all linear layers (4-bit ones and Conv1D too) but the head's and the output embedding."""
    output = loaded.model.get_output_embeddings()
    return [
        name
        for name, module in loaded.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output and not _in(name, loaded)
    ]


def _in(name: str, loaded: Loaded) -> bool:
    return any(f"{name}.".startswith(f"{head}.") for head in loaded.head)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _sites(loaded: Loaded, layers: list[str], targets: list[str]) -> Sites:
    transposed = any(isinstance(loaded.model.get_submodule(name), Conv1D) for name in layers)
    return Sites(tuple(layers), list(targets), transposed)


def inject(loaded: Loaded, config: PeftConfig, method: str) -> PeftModel:
    """Put PEFT's layers in place, freeze the base, and leave the head trainable in float32.

    PEFT's ``modules_to_save`` is left alone: it keeps a second, dead copy of the head, which would count as parameters
    and as memory.

    Raises:
        UserError: PEFT refuses the configuration for this network, or adapts other layers than it names.
    """
    quantization.prepare(loaded.model)
    asked = _parameters(config)
    try:
        model: Any = get_peft_model(loaded.model, config, adapter_name=ADAPTER)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"method={method} cannot be attached to {type(loaded.model).__name__}: {error}") from error
    if exchanged := _parameters(config) - asked:
        # For names that experts had in older checkpoints, also where they are those of other layers.
        raise UserError(
            f"method={method}: in {type(loaded.model).__name__} PEFT would adapt {', '.join(sorted(exchanged))} of the "
            "experts in place of layers that method.targets names: write a list of other layers"
        )
    for name in loaded.head:
        loaded.model.get_submodule(name).float().requires_grad_(True)
    if not loaded.head:
        # By these ``AutoPeftModelForCausalLM`` finds the base. Not before: PEFT would put a network of its own around
        # it; and not with a head, of which PEFT would make another one.
        config.task_type = loaded.task_type
        config.revision = getattr(loaded.model.config, "_commit_hash", None)
    return model


def _parameters(config: PeftConfig) -> set[str]:
    """Parameters that are adapted by name, which are no layers."""
    return set(getattr(config, "target_parameters", None) or ())


def export(model: PeftModel) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    """The adapter's configuration (a copy) and tensors, by PEFT's names for files."""
    # Not "auto": that asks the hub whether the vocabulary was resized.
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    config = copy.copy(model.peft_config[ADAPTER])
    config.inference_mode = True
    return config, state


def write_adapter(folder: Path, config: PeftConfig, state: Mapping[str, torch.Tensor]) -> None:
    """Write what ``PeftModel.from_pretrained`` reads; no model card, which would count as adapter bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    write_tensors(folder / ADAPTER_FILE, state)


def read_adapter(folder: Path) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    """What `write_adapter` wrote."""
    return PeftConfig.from_pretrained(str(folder)), load_file(folder / ADAPTER_FILE)


def load_adapter(model: PeftModel, state: dict[str, torch.Tensor]) -> None:
    """Load the tensors of one adapter into ``model``; names that fit nowhere are an error."""
    result: Any = set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
    assert not result.unexpected_keys, f"not in this adapter: {result.unexpected_keys[:3]}"


def write_head(folder: Path, attached: Attached) -> None:
    """Write the head under its names in the base network; no file where there is no head."""
    state = {name.removeprefix(PREFIX): tensor for name, tensor in attached.head_state().items()}
    if state:
        write_tensors(folder / HEAD_FILE, state)


def read_head(folder: Path, attached: Attached) -> None:
    """Load what `write_head` wrote."""
    state = attached.head_state()
    saved = load_file(folder / HEAD_FILE) if state else {}
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(saved[name.removeprefix(PREFIX)])


def write_tensors(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file, as PyTorch's."""
    tensors: dict[str, torch.Tensor] = {}
    written: set[int] = set()
    for name, tensor in state.items():
        found = tensor.detach().cpu().contiguous()
        where = found.untyped_storage().data_ptr()
        # What layers share is written for each, as PEFT writes it: a safetensors file has no second name for a tensor.
        tensors[name] = found.clone() if where in written else found
        written.add(where)
    save_file(tensors, path, metadata={"format": "pt"})


def merge(model: PeftModel) -> nn.Module | None:
    """The base network with the update folded in, or None where PEFT cannot fold it; ``model`` is used up either way.

    It finds out layer by layer, so that some may be folded already.
    """
    if quantization.is_four_bit(model.get_base_model()):
        return quantization.merge_dense(model)
    try:
        return model.merge_and_unload()
    except (NotImplementedError, AttributeError):
        return None
    except (RuntimeError, ValueError) as error:
        # PEFT names it where it refuses (a bias to fold, and the base has none); memory that runs out is no refusal.
        if "merge" not in str(error):
            raise
        return None


def check_pattern(pattern: Mapping[str, int], layers: tuple[str, ...]) -> None:
    """Refuse a ``rank.pattern`` that says nothing about any adapted layer (PEFT would ignore it silently).

    Raises:
        UserError: a key is no regular expression, or the end of no adapted layer's name.
    """
    for key in pattern:
        try:
            used = any(re.match(rf"(.*\.)?({key})$", layer) for layer in layers)
        except re.error as error:
            raise UserError(f"rank.pattern: {key} is not a regular expression ({error})") from error
        if not used:
            raise UserError(f"rank.pattern: {key} matches no adapted layer; these are {', '.join(layers[:6])}, ...")
