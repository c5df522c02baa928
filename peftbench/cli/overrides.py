"""Shorthands of the command line, rewritten before Hydra parses it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from peftbench.cli.paths import CONF
from peftbench.errors import UserError

_NUMBERS = re.compile(r"^-?\d+(\.\d+)?(\s*,\s*-?\d+(\.\d+)?)*$")
_OPEN = ("rank.pattern=", "rank.pattern.", "method.args=", "method.args.")
_VALUED = {"--cfg", "-c", "--info", "-i", "--package", "-p", "--experimental-rerun"}
_VALUED |= {"--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd"}
"""Hydra's flags that the next word may be the value of."""
_PATHS = {"path", "output_dir"}
DRY = ("engine.dry_run=true", "engine.dry_run=True")
"""What a command that is listed is not to have."""
_SWEEPS = re.compile(r"^(range|interval|choice|tag|sort|shuffle|int)\(.*\)$")


def rewrite(arguments: Iterable[str]) -> list[str]:
    """``rank=8``, ``rank=4,8`` and ``rank=range(4,17,4)`` become ``rank.value=...``; mappings may be given new keys.

    ``rank`` is a group (``rank=fixed_alpha``), and Hydra takes no number as the name of a group's option. It refuses
    new keys without a ``+``, but in ``rank.pattern`` and ``method.args`` all of them are the user's. A path that its
    grammar cannot read (``~/my.csv``, ``données.csv``) is put into the quotes that it wants.

    Raises:
        UserError: several options of one group are written as a list, of which Hydra would take the last.
    """
    return [f"++{argument}" if argument.startswith(_OPEN) else _path(_rank(_one(argument))) for argument in arguments]


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The same arguments with flags before overrides: ``method=lora -m seed=0,1`` is refused by argparse otherwise."""
    flags: list[str] = []
    overrides: list[str] = []
    before = ""
    for argument in arguments:
        is_value = before in _VALUED and "=" not in argument
        (flags if argument.startswith("-") or is_value else overrides).append(argument)
        before = argument
    return [*flags, *overrides]


def _one(argument: str) -> str:
    key, _, value = argument.partition("=")
    if value.startswith("[") and (CONF / key.strip("+ ")).is_dir():
        several = re.sub(r"[^\w,]", "", value)
        raise UserError(f"{argument} is a list, of which Hydra would take the last: write {key}={several} for a grid")
    return argument


def _rank(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key.strip() == "rank" and equals and (_NUMBERS.match(value.strip()) or _SWEEPS.match(value.strip())):
        return f"rank.value={value}"
    return argument


def _path(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.rpartition(".")[2] not in _PATHS or _is_read(argument):
        return argument
    parts = (part.replace('"', '\\"') for part in value.split(","))
    return f"{key}=" + ",".join(f'"{part}"' for part in parts)


def _is_read(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def command(hydra: DictConfig, overrides: Iterable[str]) -> tuple[str, ...]:
    """The arguments that compose a point again: also the primary configuration if it is not ours, and where it is.

    Args:
        hydra: Hydra's own part of what was composed.
    """
    name = hydra.job.config_name
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    found = [word for folder in folders for word in ("--config-dir", folder)]
    primary = [] if name in (None, "config") else ["-cn", name]
    return (*found, *primary, *(text for text in overrides if text.lstrip("+") not in DRY))
