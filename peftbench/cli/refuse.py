"""Words of the command line that Hydra takes and that would change nothing here: said, not ignored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from peftbench.errors import UserError

_OFF = ("false", "null")
_FOLDERS = {
    "hydra.run.dir": (".", "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}"),
    "hydra.sweep.dir": (".", "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}"),
    "hydra.sweep.subdir": ("${hydra.job.num}",),
    "hydra.output_subdir": (None, ".hydra"),
    "hydra.job.chdir": (None, False),
}
"""Options of folders that no run would be in, and what they are where nobody asks for one: ours, or Hydra's own."""
_NOT_CALLED, _TOO_EARLY = ("on_job_start", "on_job_end"), ("on_job_end", "on_run_end")
"""Methods of callbacks, in a grid or search and in a single run."""
_NO_EFFECT = "{} has no effect: a run is in OUTPUT_DIR/SWEEP, so write output_dir=DIR or sweep=NAME"
_NAMES, _DIRECTORIES = ("-cn", "--config-name"), ("-cd", "--config-dir")


def refuse_without_effect(arguments: Sequence[str]) -> None:
    """Look at the arguments before Hydra acts on them.

    Raises:
        UserError: Hydra's own output folders are asked for, or a configuration that ours stands before.
    """
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        harmless = (*_OFF, ".") if key.endswith(".dir") else _OFF
        if key in _FOLDERS and value.lower() not in harmless:
            raise UserError(_NO_EFFECT.format(key))
    name, folder = _value(arguments, _NAMES), _value(arguments, _DIRECTORIES)
    if name in ("config", "config.yaml") and folder and (file := Path(folder, "config.yaml")).exists():
        raise UserError(
            f"-cn config is peftbench's own and not {file}: the options of a run are repeated by the command on its "
            f"page, or copy the file under another name (cp {file} {os.path.join(folder, 'again.yaml')}; -cn again)"
        )


def refuse_sweeper(mode: RunMode, overrides: Iterable[str]) -> None:
    """Look at what Hydra has made of a command that our sweeper was not given.

    Raises:
        UserError: it is a grid of another sweeper, or a single run with options that only a sweeper has.
    """
    if mode == RunMode.MULTIRUN:
        raise UserError("another sweeper runs points one by one, each as if it were alone: leave hydra/sweeper out")
    for override in overrides:
        if override.lstrip("+~").startswith(("hydra.sweeper", "hydra/sweeper")):
            raise UserError(f"{override} is for grids and searches, and this is one run: add -m")


def refuse_ignored(hydra: DictConfig, *, multirun: bool) -> None:
    """Look at Hydra's own part of what was composed: runs are not Hydra's jobs, but begin when it has done its work.

    Raises:
        UserError: folders that no run would be in, an environment for jobs, details of a log that nothing is written
            to, or a callback that would not be called, or too early.
    """
    written: Any = {"hydra": OmegaConf.to_container(hydra, resolve=False)}
    for key, harmless in _FOLDERS.items():
        if reduce(getitem, key.split("."), written) not in harmless:
            raise UserError(_NO_EFFECT.format(key))
    if hydra.verbose and not any(part and part.get("handlers") for part in (hydra.job_logging, hydra.hydra_logging)):
        raise UserError("hydra.verbose has no effect: a run's log is its run.log; leave it out")
    for variable in hydra.job.env_set:
        raise UserError(f"hydra.job.env_set has no effect: write {variable}=VALUE peftbench ...")
    late = _NOT_CALLED if multirun else _TOO_EARLY
    instead = "never called: write" if multirun else "called before the run: add -m and write"
    for name, options in hydra.callbacks.items():
        kind = get_object(options._target_) if options else None
        for method in late:
            if getattr(kind, method, None) not in (None, getattr(Callback, method)):
                raise UserError(f"hydra.callbacks.{name}: its {method} is {instead} on_multirun_end")


def _value(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """What follows a flag, or stands behind its ``=``."""
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in names:
            return value if equals else next(iter(arguments[index + 1 : index + 2]), None)
    return None
