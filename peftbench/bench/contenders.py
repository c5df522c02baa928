"""Who is timed: our methods as a run builds them, and PEFT's as its users build them.

All have the same base network (same loader), adapted layers, rank, alpha, dropout (none), trained head, precision,
attention implementation and optimizer, so that the method alone differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench import run
from peftbench.bench.workloads import RANK, Case
from peftbench.measuring.sizes import base_bytes
from peftbench.methods import injection
from peftbench.methods.base import Attached
from peftbench.training.optimizer import build_optimizer

if TYPE_CHECKING:
    from peft import PeftConfig

    from peftbench.context import Context
    from peftbench.tasks.base import Batch

Build = Callable[[Case], tuple["Context", Attached]]
Configure = Callable[[dict[str, Any]], "PeftConfig"]
"""Makes a PEFT configuration of the fields that all of PEFT's methods share."""


class Ops(TorchDispatchMode):
    """Counts what is computed, by the name of the operation; views compute nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@dataclass
class Contender:
    """A model with its optimizer, ready to do steps."""

    context: Context
    attached: Attached
    case: Case
    batch: Batch
    optimizer: torch.optim.Optimizer
    compiled: nn.Module | None = None
    """What computes the loss of a step; None is the attached model itself."""

    def step(self) -> None:
        """One optimizer step, in the order of `peftbench.training.loop.Loop`."""
        model = self.attached.model if self.compiled is None else self.compiled
        with self.context.autocast():
            loss = self.case.task.loss(model, self.batch)
        loss.backward()
        nn.utils.clip_grad_norm_((p for _, p in self.attached.trainable()), self.context.run.trainer.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def flops_per_token(self) -> float | None:
        """FLOPs of one forward and backward pass a token, counted; None where an op has no known count."""
        from peftbench.measuring.flops import flops_per_token

        with self.context.autocast():
            return flops_per_token(self.attached.model, self.batch, self.case.task.loss)

    def ops(self) -> int:
        """Operations that one step gives to the device, views left out: what a GPU waits for if each is small."""
        with Ops() as seen:
            self.step()
        return seen.counts.total()

    def frozen_linear_bytes(self) -> int:
        """Memory of the base's linear layers (biases and 4-bit states too), bytes."""
        return sum(
            base_bytes(module, ())
            for name, module in self.attached.model.named_modules()
            # PEFT keeps a frozen copy of a head that it trains: no part of the base.
            if isinstance(module, nn.Linear) and not module.weight.requires_grad and ".original_module" not in name
        )


def enter(case: Case, name: str) -> Contender:
    """Build one of `CONTENDERS`, in train mode on the case's device."""
    return ready(case, *CONTENDERS[name](case))


def ready(case: Case, context: Context, attached: Attached) -> Contender:
    """Put what was built into train mode, with an optimizer and the case's batch."""
    attached.model.train()
    config: Any = attached.model.config
    optimizer = build_optimizer(attached, context.run.trainer, context.device)
    return Contender(context, attached, case, case.batch(config.vocab_size), optimizer)


def _ours(method: str) -> Build:
    def build(case: Case) -> tuple[Context, Attached]:
        context = case.context(method)
        return context, run.build(context, case.task)

    return build


def _peer(configure: Configure, *, four_bit: bool = False) -> Build:
    def build(case: Case) -> tuple[Context, Attached]:
        from peft import get_peft_model, prepare_model_for_kbit_training

        context = case.context("lora")
        loaded = run.load(context, case.task, _quantized(context, case) if four_bit else {})
        if four_bit:
            prepare_model_for_kbit_training(loaded.model, use_gradient_checkpointing=False)
        sites = injection.find_sites(loaded, case.targets)
        # The head is named: by itself PEFT would leave DistilBERT's pre_classifier untrained.
        common = {"r": RANK, "task_type": case.task.peft_type, "target_modules": sites.targets}
        config = configure({**common, "modules_to_save": list(loaded.head) or None})
        model: Any = get_peft_model(loaded.model, config)
        return context, Attached(model.to(context.device), loaded.head)

    return build


def _quantized(context: Context, case: Case) -> Mapping[str, Any]:
    """QLoRA's settings, written out as a user of transformers writes them."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=context.dtype,
        llm_int8_skip_modules=list(context.run.model.head(case.task)),
    )
    return {"quantization_config": config, "device_map": {"": str(context.device)}}


def _lora(common: dict[str, Any]) -> PeftConfig:
    from peft import LoraConfig

    return LoraConfig(lora_alpha=2 * RANK, **common)


def _hira(common: dict[str, Any]) -> PeftConfig:
    from peft import HiraConfig

    return HiraConfig(**common)


REFERENCE = "peft_lora"
CONTENDERS: dict[str, Build] = {
    REFERENCE: _peer(_lora),
    "lora": _ours("lora"),
    "peft_hira": _peer(_hira),
    "hira": _ours("hira"),
    "peft_qlora": _peer(_lora, four_bit=True),
    "qlora": _ours("qlora"),
}
"""In the order in which they take their turns."""
