"""The options of ``hydra/launcher=slurm`` (``conf/hydra/launcher/slurm.yaml``), checked, and as sbatch takes them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import OmegaConf
from pydantic import Field, ValidationError, field_validator

from peftbench.component import Checked, complaint
from peftbench.config import RunConfig
from peftbench.errors import UserError
from peftbench.sweep.child import EXECUTE
from peftbench.sweep.fork_server import PRELOAD

GROUP = "hydra.launcher"
PROGRAMS = ("sbatch", "squeue", "sacct", "scancel")
TRIALS = 4
"""Trials of a search that go on at a time where nobody says how many."""
_HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_ASKED = (
    "account",
    "cpus-per-task",
    "gpus",
    "gpus-per-node",
    "mem",
    "partition",
    "qos",
    "requeue",
    "no-requeue",
    "time",
)
_FIXED = ("array", "error", "job-name", "open-mode", "output", "signal")
"""What sbatch is told by options of its own, or needs to be as it is."""


class Slurm(Checked):
    """What a job asks the cluster for, and how many there are at a time."""

    partition: str | None = Field(min_length=1)
    account: str | None = Field(min_length=1)
    qos: str | None = Field(min_length=1)
    time: int = Field(ge=1)
    gpus: Literal["auto", 0, 1] | str
    cpus: int = Field(ge=1)
    memory: str = Field(pattern=r"^[1-9]\d*[KMGT]$")
    array_parallelism: int | None = Field(ge=1)
    array_size: int = Field(ge=1, le=10_000)
    requeue: bool
    setup: list[str]
    sbatch: dict[str, str | int | bool]
    cancel: bool
    poll: float = Field(gt=0)

    @field_validator("gpus", mode="before")
    @classmethod
    def _one_gpu_a_run(cls, value: Any) -> Any:
        if value in ("auto", 0, 1) and not isinstance(value, bool):
            return value
        kind, _, count = str(value).partition(":")
        if not kind or kind.isdigit() or count != "1":
            raise ValueError("a job is one run, which uses one GPU at most: write auto, 0, 1 or TYPE:1")
        return value

    @field_validator("sbatch")
    @classmethod
    def _nothing_twice(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name.replace("_", "-") in (*_ASKED, *_FIXED):
                raise ValueError(f"{name} is not for here: {GROUP} has its own option for it, or it must not change")
        return value

    def check(self, runs: Sequence[RunConfig]) -> None:
        """Refuse what could not take effect.

        Raises:
            UserError: which option, and what to write instead.
        """
        engine, devices = runs[0].engine, {run.device for run in runs}
        if engine.in_process:
            raise UserError("engine.in_process=true is for a debugger on this machine: leave out hydra/launcher=slurm")
        if engine.timeout is not None and engine.timeout >= 60 * self.time:
            raise UserError(
                f"engine.timeout={engine.timeout:g} s would never be reached: {GROUP}.time={self.time} min comes first"
            )
        if "mps" in devices:
            raise UserError("device=mps: a Slurm job has no Apple GPU; write device=auto")
        if self.gpus == 0 and any(device.startswith("cuda") for device in devices):
            raise UserError(f"{GROUP}.gpus=0 and device=cuda: write {GROUP}.gpus=1 or device=cpu")
        if self.gpus not in (0, "auto") and devices == {"cpu"}:
            raise UserError(f"{GROUP}.gpus={self.gpus} would stand idle with device=cpu: leave it out")

    def gpus_for(self, runs: Sequence[RunConfig]) -> str | None:
        """What sbatch is asked for: ``1``, ``a100:1``; None: nothing."""
        asked = int(any(run.device != "cpu" for run in runs)) if self.gpus == "auto" else self.gpus
        return str(asked) if asked else None

    def arguments(self, runs: Sequence[RunConfig], name: str, parallelism: int) -> dict[str, Any]:
        """Parameters of submitit's `SlurmExecutor` for an array of these runs."""
        asked = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "gpus_per_node": self.gpus_for(runs),
        }
        return {
            **{key: value for key, value in asked.items() if value is not None},
            "job_name": name,
            "time": self.time,
            "cpus_per_task": self.cpus,
            "mem": self.memory,
            "array_parallelism": parallelism,
            "setup": list(self.setup),
            "stderr_to_stdout": True,
            # One process a job: without srun nothing else has to work, and all of the allocation is its.
            "use_srun": False,
            "additional_parameters": {("requeue" if self.requeue else "no-requeue"): True, **self.sbatch},
        }


@dataclass(frozen=True)
class Cluster:
    """Slurm as the place where points are carried out."""

    options: Slurm
    execute: str = EXECUTE
    preload: str = PRELOAD
    search: bool = False
    """Trials are sent as slots become free, instead of all points in one array."""

    def check_here(self) -> None:
        """Find out before anything is written that nothing could be sent.

        Raises:
            UserError: Slurm's commands or submitit are not here.
        """
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise UserError(
                f"hydra/launcher=slurm: there is no {missing[0]} here; start on a login node of the cluster, or leave "
                "hydra/launcher=slurm out"
            )
        if importlib.util.find_spec("submitit") is None:
            raise UserError("hydra/launcher=slurm needs submitit: pip install 'peftbench[slurm]'")

    def at_a_time(self, runs: Sequence[RunConfig]) -> int | None:
        """Most runs that go on at a time; None: as many as the cluster has room for."""
        if self.options.array_parallelism is not None:
            return self.options.array_parallelism
        jobs = runs[0].engine.jobs
        if isinstance(jobs, int):
            return jobs
        return TRIALS if self.search else None


def chosen(launcher: Any) -> Cluster | None:
    """Where ``hydra/launcher`` says that points are carried out; None: on this machine.

    Raises:
        UserError: another launcher, or one line for each wrong option.
    """
    fields: dict[str, Any] = OmegaConf.to_container(launcher, resolve=True) if launcher is not None else {}  # type: ignore[assignment]
    target = fields.pop("_target_", _HERE)
    if target == f"{Slurm.__module__}.{Slurm.__qualname__}":
        return Cluster(_load(fields))
    if target != _HERE or fields:
        raise UserError(
            f"hydra/launcher: {target} does not start our runs; write hydra/launcher=slurm for a cluster, or leave it "
            "out and write engine.jobs=N for this machine"
        )
    return None


def _load(fields: Mapping[str, Any]) -> Slurm:
    try:
        return Slurm.model_validate(fields)
    except ValidationError as error:
        raise UserError("\n".join(_explain(item) for item in error.errors())) from None


def _explain(item: Any) -> str:
    name = ".".join([GROUP, *(str(part) for part in item["loc"][:2])])
    message = "write a whole number and its unit: 800M, 16G" if item["loc"] == ("memory",) else complaint(item)
    given = item.get("input")
    return f"{name}: {message}" + ("" if isinstance(given, dict | list) else f" (got {given!r})")
