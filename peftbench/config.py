"""The configuration of one run: typed, range-checked, hashable, and free of Hydra.

`RunConfig.load` takes the resolved mapping that Hydra composed and returns plain frozen objects; everything after the
entry point works with those. What changes a result is in the hash; where and how it is carried out is not.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from peftbench.component import Checked, Component, Label, complaint
from peftbench.data.base import Dataset
from peftbench.errors import UserError, first_of
from peftbench.files import expanded
from peftbench.methods.base import Method
from peftbench.models.base import Model
from peftbench.sparsity.base import Sparsity
from peftbench.tracking.base import Tracker


class Rank(Checked):
    """How large the low-rank update is: rank ``r`` and the scaling ``s = alpha / r`` (Hu et al., 2022)."""

    value: int = Field(ge=1, le=4096)
    alpha: float | None = Field(default=None, gt=0)
    alpha_ratio: float | None = Field(default=None, gt=0)
    pattern: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_rule(self) -> Rank:
        if (self.alpha is None) == (self.alpha_ratio is None):
            raise ValueError(
                "give one of two: rank.alpha_ratio=2 (alpha = 2 r), or rank.alpha=16 rank.alpha_ratio=null (fixed)"
            )
        if any(value < 1 for value in self.pattern.values()):
            raise ValueError("rank.pattern: every rank is an integer of at least 1")
        return self

    @property
    def scale(self) -> float:
        """``s = alpha / r``, the factor before ``B A``."""
        # One of the two is set: that has been validated.
        return self.alpha_ratio if self.alpha is None else self.alpha / self.value  # type: ignore[return-value]


class Trainer(Checked):
    """One training recipe, the same for every method of a sweep but for the learning rate."""

    epochs: float = Field(gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    lr: float = Field(gt=0, lt=10)
    batch_size: int = Field(ge=1)
    eval_batch_size: int = Field(ge=1)
    precision: Literal["auto", "fp32", "bf16"]
    attention: Literal["auto", "eager", "sdpa"]
    optimizer: Literal["adamw", "paged_adamw", "paged_adamw_8bit"]
    weight_decay: float = Field(ge=0, lt=1)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    schedule: Literal["linear", "cosine", "constant"]
    warmup_ratio: float = Field(ge=0, lt=1)
    max_grad_norm: float = Field(gt=0)
    gradient_checkpointing: bool
    compile: bool = False
    validations: int = Field(ge=1)
    select: Literal["best", "last"]


class Engine(Checked):
    """How points are carried out; nothing here is a part of a run's identity, so nothing here is hashed."""

    in_process: bool
    jobs: int | Literal["auto"] = "auto"
    fail_fast: bool
    retries: int = Field(default=0, ge=0)
    retry_failed: bool
    rerun: bool
    timeout: float | None = Field(default=None, gt=0)
    dry_run: bool

    @field_validator("jobs", mode="before")
    @classmethod
    def _at_least_one_job(cls, value: Any) -> Any:
        if value is None:
            return "auto"
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError("write auto, or how many runs go on at a time (1 or more)")
        return value

    @model_validator(mode="after")
    def _needs_a_process(self) -> Engine:
        if self.in_process and self.timeout is not None:
            raise ValueError("engine.timeout needs a process to end: write engine.in_process=false")
        if self.in_process and self.jobs not in ("auto", 1):
            raise ValueError(f"engine.jobs={self.jobs} needs processes: write engine.in_process=false")
        return self


class RunConfig(Checked):
    """Everything one run is a function of."""

    method: Method
    dataset: Dataset
    model: Model
    rank: Rank | None
    sparsity: Sparsity
    trainer: Trainer
    tracker: Tracker
    engine: Engine
    seed: int = Field(ge=0, lt=2**31)
    device: str = Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    sweep: Label
    output_dir: str

    @field_validator("method", "dataset", "model", "sparsity", "tracker", mode="before")
    @classmethod
    def _load_component(cls, value: Any, info: Any) -> Component:
        return BASES[info.field_name].load(value)

    @field_validator("output_dir")
    @classmethod
    def _has_its_home(cls, value: str) -> str:
        expanded(value, "output_dir")
        return value

    @field_validator("trainer", mode="before")
    @classmethod
    def _has_a_recipe(cls, value: Any) -> Any:
        if isinstance(value, dict) and (lacking := [name for name in RECIPE if name not in value]):
            raise ValueError(
                f"{first_of(lacking)} are not set: a primary file of your own inherits `config`, or has "
                "`recipe@trainer` among its defaults"
            )
        return value

    @field_serializer("method", "dataset", "model", "sparsity", "tracker")
    def _dump_component(self, value: Component) -> dict[str, Any]:
        return value.dump()

    @model_validator(mode="after")
    def _drop_unused_rank(self) -> RunConfig:
        # A method without a rank is one point of a rank grid, not one per rank: the axis is dropped, not ignored.
        if not self.method.uses_rank and self.rank is not None:
            object.__setattr__(self, "rank", None)
        # Nor is one without an alpha a point for each of its ratios.
        if not self.method.uses_alpha and self.rank is not None and self.rank.alpha_ratio is not None:
            object.__setattr__(self, "rank", self.rank.model_copy(update={"alpha_ratio": NO_ALPHA}))
        return self

    @classmethod
    def load(cls, mapping: dict[str, Any]) -> RunConfig:
        """Check a resolved mapping and return the configuration it stands for.

        Raises:
            UserError: one line per wrong option, with its dotted name, what is wrong and what it was.
        """
        try:
            return cls.model_validate(mapping)
        except ValidationError as error:
            raise UserError("\n".join(_explain(item, error.title) for item in error.errors())) from None

    def dump(self) -> dict[str, Any]:
        """The complete resolved configuration as plain JSON types."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over everything that can change the result."""
        decisive = {key: value for key, value in self.dump().items() if key not in UNHASHED}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def axes(self) -> dict[str, Any]:
        """The short labels by which runs are grouped; without the seed they name a setting."""
        return {
            "method": self.method.name,
            "dataset": self.dataset.name,
            "model": self.model.name,
            "rank": None if self.rank is None else self.rank.value,
            "sparsity": self.sparsity.name,
            "ratio": getattr(self.sparsity, "ratio", None),
            "seed": self.seed,
        }

    @property
    def run_id(self) -> str:
        """The folder name of this run: its axes and the first eight digits of its hash."""
        axes = self.axes
        parts = [axes["method"], axes["dataset"], axes["model"]]
        parts += [] if axes["rank"] is None else [f"r{axes['rank']}"]
        parts += [] if axes["ratio"] is None else [f"{axes['sparsity']}{axes['ratio']:g}"]
        return "-".join([*parts, f"s{self.seed}", self.hash[:8]])

    def conflict(self) -> str | None:
        """Why this combination can never run, whatever the machine, or None."""
        return self.method.conflict(self) or self.sparsity.conflict(self) or self.dataset.conflict(self)


RECIPE = tuple(name for name, field in Trainer.model_fields.items() if field.is_required())
NO_ALPHA = 2.0
"""In place of every ratio where there is no alpha: the one of ``rank=default``."""
BASES: dict[str, type[Component]] = {
    "method": Method,
    "dataset": Dataset,
    "model": Model,
    "sparsity": Sparsity,
    "tracker": Tracker,
}
UNHASHED = ("tracker", "engine", "sweep", "output_dir")


def _explain(item: Any, title: str) -> str:
    """One readable line for one pydantic error, naming the option as the command line does."""
    path = [str(part) for part in item["loc"]]
    if title != "RunConfig" and not path:
        path = [title.lower()]
    message, name = complaint(item), ".".join(path)
    given = item.get("input")
    shown = "" if isinstance(given, dict) else f" (got {given!r})"
    return f"{name}: {message}{shown}" if name else message
