"""Shorthands of the command line, rewritten before Hydra parses it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Quote, QuotedString, Sweep
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
_FUNCTION = re.compile(r"\b(range|interval|choice|glob)\(")
_SWEEPS = re.compile(r"^(range|interval|choice|tag|sort|shuffle|int)\(.*\)$")

_SPECIAL = re.compile(r"[\\()\[\]{}:=, \t]")
_BARE = re.compile(r"(?!(null|true|false|inf|nan)$)[a-z_][\w-]*", flags=re.IGNORECASE | re.ASCII)
"""Texts that Hydra reads as they are."""


def rewrite(arguments: Iterable[str]) -> list[str]:
    """``rank=8``, ``rank=4,8`` and ``rank=range(4,17,4)`` become ``rank.value=...``; mappings may be given new keys.

    ``rank`` is a group (``rank=fixed_alpha``), and Hydra takes no number as the name of a group's option. It refuses
    new keys without a ``+``, but in ``rank.pattern`` and ``method.args`` all of them are the user's. A path that its
    grammar cannot read (``~/my.csv``, ``données.csv``) is put into the quotes that it wants.

    Raises:
        UserError: several options of one group are written as a list, of which Hydra would take the last, or a range
            stands among other values, which Hydra reads and then cannot compose.
    """
    looked_at = (_alone(_one(argument)) for argument in arguments)
    return [f"++{argument}" if argument.startswith(_OPEN) else _path(_rank(argument)) for argument in looked_at]


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


def _alone(argument: str) -> str:
    if _FUNCTION.search(argument) and _is_read(argument):
        override = OverridesParser.create().parse_override(argument)
        value = override.value()
        values = value.list if isinstance(value, ChoiceSweep) else value
        if isinstance(values, list) and any(isinstance(item, Sweep | Glob) for item in values):
            key = override.get_key_element()
            raise UserError(f"{argument}: a function stands alone, not among other values: write {key}=a,b,c with all")
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


def as_value(key: str, value: Any) -> str:
    """A plain value as Hydra's grammar has it after ``key=``.

    >>> as_value("method.args", {"use_dora": True, "modules": ["a", "b c", None], "scale": 0.5})
    "{use_dora:true,modules:[a,'b c',null],scale:0.5}"

    Raises:
        UserError: the grammar has no words for it, as for a mapping's key with a ``^`` in it.
    """
    text = _worded(value)
    with suppress(HydraException):
        # As a sweep reads it: once from its file, then from the words that Hydra itself makes of that.
        once = OverridesParser.create().parse_override(f"{key}={text}")
        again = OverridesParser.create().parse_override(f"{key}={once.get_value_element_as_str()}")
        if again.value() == value:
            return text
    raise UserError(f"{key}={value} cannot be written as an override: Hydra's grammar has no words for it")


def as_key(key: str) -> str:
    """A key of a mapping, which cannot be in quotes: what would end it is escaped."""
    return _SPECIAL.sub(r"\\\g<0>", key)


def _worded(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{as_key(key)}:{_worded(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_worded, value)) + "]"
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()
    return json.dumps(value)
