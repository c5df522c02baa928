"""Any tuner that PEFT has, by the name of its configuration class: a YAML file is a new method, without code."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from peftbench.errors import UserError
from peftbench.methods.tuner import Tuner
from peftbench.training.hooks import Hook

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

    from peftbench.config import Rank, RunConfig
    from peftbench.methods.base import Attached
    from peftbench.methods.injection import Sites
    from peftbench.models.base import Loaded

UNKNOWN_YET = 2**31
"""Stands for the number of training steps until the loop says it."""
ON_DATA = ("eva", "lora_ga", "corda", "loftq")
"""Values of ``init_lora_weights`` that PEFT leaves to a preparation of its own: without it some are plain LoRA."""
REFUSED = {
    "LilyConfig": "what it answers to a text depends on the rest of its batch, padding too; write another class",
    "PolyConfig": "its network asks for task ids, which no data set here has",
    "XLoraConfig": "it mixes adapters that are there already",
}
"""Tuners that a run has no use for, or whose figures would be those of its batches, and why."""


class Peft(Tuner):
    """A PEFT configuration built from ``args``, the targets, and the run's rank where the tuner has one."""

    config_class: str
    """A class of PEFT such as ``LoHaConfig``."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of that class."""
    rank_args: dict[str, Annotated[float, Field(gt=0, le=4096)]] | None = None
    """Arguments that follow ``rank``, each as a multiple of it; null for a tuner without a rank."""
    alpha_arg: str | None = None
    """The argument that alpha goes to; null for a tuner without one, which then has no use for rank.alpha_ratio."""

    @property
    def uses_rank(self) -> bool:  # type: ignore[override]  # a class attribute elsewhere
        """Whether the ``rank`` axis means anything to this tuner."""
        return bool(self.rank_args)

    @property
    def uses_alpha(self) -> bool:  # type: ignore[override]  # a class attribute elsewhere
        """See `Method.uses_alpha`."""
        return self.alpha_arg is not None

    def conflict(self, run: RunConfig) -> str | None:
        """See `Method.conflict`."""
        if run.rank is not None and run.rank.pattern:
            return f"method={self.name} has one rank for all layers: leave rank.pattern empty"
        if run.rank is not None and run.rank.alpha is not None and not self.uses_alpha:
            return f"method={self.name} has no alpha: write rank=default"
        if run.rank is not None and (none := [name for name, number in self._ranks(run.rank).items() if number < 1]):
            return (
                f"method.rank_args.{none[0]} makes {none[0]}=0 of rank {run.rank.value}: "
                f"write method.rank_args.{none[0]}=1, or a larger rank"
            )
        if run.rank is not None and (reason := nothing_to_take(self._ranks(run.rank))):
            return reason
        return super().conflict(run)

    def sites(self, loaded: Loaded) -> Sites:
        """See `Tuner.sites`; here other modules than linear layers may be named (norms, embeddings)."""
        from peftbench.methods import injection

        return injection.find_sites(loaded, self.targets, linear_only=False)

    def peft_config(self, sites: Sites, run: RunConfig) -> PeftConfig:
        """See `Tuner.peft_config`."""
        kind = self._class()
        known = {field.name for field in dataclasses.fields(kind) if field.init}
        settled = self._settled(known, sites, run)
        if twice := settled.keys() & self.args.keys():
            raise UserError(f"method.args: leave out {_join(twice)}, which targets, rank and training already set")
        if unknown := (settled.keys() | self.args.keys()) - known:
            raise UserError("; ".join([f"{self.config_class} has no {_join(unknown)}", *self._instead(unknown, known)]))
        self._refuse_unprepared()
        try:
            return kind(**settled, **self.args)
        except (TypeError, ValueError) as error:
            raise UserError(f"method.args: {self.config_class} refuses them: {error}") from error

    def prepare(self, model: PeftModel, run: RunConfig) -> None:
        """See `Tuner.prepare`; what PEFT has filled in by itself (IA3) must be what it takes when it loads.

        Raises:
            UserError: it would not load the adapter.
        """
        config = model.peft_config["default"]
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            try:
                type(config).from_pretrained(folder)
            except (TypeError, ValueError) as error:
                raise UserError(f"method.args: PEFT would not load this {self.config_class} again: {error}") from error

    def admit(self, model: PeftModel, config: PeftConfig, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Tuner.admit`: the layers of a tuner that moves ranks (AdaLoRA) shrink to what was saved.

        Not by PEFT's own resizing, which takes the dtype of the base for them and makes all of them trainable.
        """
        from torch import nn

        if self._moves_ranks(model) and getattr(config, "rank_pattern", None) is not None:
            for key, tensor in state.items():
                layer, _, name = key.rpartition(".")
                held: Any = getattr(model.get_submodule(layer), name)
                held["default"] = nn.Parameter(tensor.to(held["default"]))
            model.peft_config["default"].rank_pattern = None  # type: ignore[attr-defined]  # of AdaLoRA
        return state

    def hook(self, attached: Attached) -> Hook:
        """See `Method.hook`."""
        from peftbench.methods.allocation import Allocation

        model: Any = attached.model
        return Allocation(model) if self._moves_ranks(model) else Hook()

    def _moves_ranks(self, model: PeftModel) -> bool:
        return hasattr(model.base_model, "update_and_allocate")

    def _class(self) -> type[PeftConfig]:
        """The configuration class of a tuner that works layer by layer.

        Raises:
            UserError: PEFT has none of that name; the message lists those it has.
        """
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
        from peft.tuners.tuners_utils import BaseTuner

        layerwise = [key for key, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items() if issubclass(tuner, BaseTuner)]
        found = {PEFT_TYPE_TO_CONFIG_MAPPING[key].__name__: PEFT_TYPE_TO_CONFIG_MAPPING[key] for key in layerwise}
        if self.config_class in REFUSED:
            raise UserError(f"method.config_class={self.config_class}: {REFUSED[self.config_class]}")
        if self.config_class not in found:
            others = {kind.__name__ for kind in PEFT_TYPE_TO_CONFIG_MAPPING.values()}
            why = "works on the input, not layer by layer" if self.config_class in others else "is not in PEFT"
            known = _join(found.keys() - REFUSED)
            raise UserError(f"method.config_class: {self.config_class} {why}; write one of {known}")
        return found[self.config_class]

    def _refuse_unprepared(self) -> None:
        """Refuse what would be another method than its name says, or not what its file says.

        Raises:
            UserError: it needs a preparation that a run does not make.
        """
        start = self.args.get("init_lora_weights")
        if start in ON_DATA:
            raise UserError(f"method.args.init_lora_weights={start} needs a preparation on data, which a run has not")
        if str(start).startswith("pissa_niter"):
            # Its decomposition is drawn, and drawn again by whoever loads the adapter: another base.
            raise UserError(f"method.args.init_lora_weights={start} cannot be loaded as it was trained: write pissa")
        if self.args.get("use_qalora"):
            raise UserError("method.args.use_qalora is plain LoRA on a base that is not GPTQ's: leave it out")

    def _instead(self, unknown: set[str], known: set[str]) -> list[str]:
        """What to write where the class has other names for rank and alpha than this method's file, or none."""
        told = []
        if wrong := unknown & set(self.rank_args or {}):
            others = " ".join(f"~method.rank_args.{name}" for name in sorted(wrong))
            told.append(
                f"write method.rank_args=null, or {others} +method.rank_args.NAME=1 with one of the names below"
            )
        if self.alpha_arg in unknown:
            # PEFT's classes call it one of these.
            names = ("alpha", "lora_alpha", f"{self.config_class.removesuffix('Config').lower()}_alpha")
            told.append(f"write method.alpha_arg={next((name for name in names if name in known), 'null')}")
        return [*told, f"it has {_join(known)}"]

    def _ranks(self, rank: Rank) -> dict[str, int]:
        """What follows ``rank``: the nearest whole number to each multiple of it, which may be 0."""
        return {name: round(ratio * rank.value) for name, ratio in (self.rank_args or {}).items()}

    def _settled(self, known: set[str], sites: Sites, run: RunConfig) -> dict[str, Any]:
        """Arguments that follow from the rest of the run."""
        settled: dict[str, Any] = {"target_modules": sites.targets}
        if "fan_in_fan_out" in known:
            settled["fan_in_fan_out"] = sites.transposed
        if "total_step" in known:
            settled["total_step"] = UNKNOWN_YET
        if run.rank is not None:
            settled |= self._ranks(run.rank)
            settled |= {self.alpha_arg: run.rank.scale * run.rank.value} if self.alpha_arg else {}
        return settled


def nothing_to_take(ranks: Mapping[str, Any]) -> str | None:
    """Why a tuner that begins with ``init_r`` could not end with ``target_r``, of which ``ranks`` may have neither."""
    first, last = ranks.get("init_r"), ranks.get("target_r")
    if first is None or last is None or last < first:
        return None
    return (
        f"target_r={last} is not below init_r={first}, and ranks are only taken away: "
        "write a larger method.rank_args.init_r"
    )


def _join(names: Any) -> str:
    return ", ".join(sorted(names))
