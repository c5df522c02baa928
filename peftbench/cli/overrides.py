"""Shorthands of the command line, rewritten before Hydra parses it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBERS = re.compile(r"^-?\d+(\.\d+)?(\s*,\s*-?\d+(\.\d+)?)*$")
_OPEN = ("rank.pattern=", "rank.pattern.", "method.args=", "method.args.")
_SWEEPS = re.compile(r"^(range|interval|choice|tag|sort|shuffle|int)\(.*\)$")


def rewrite(arguments: Iterable[str]) -> list[str]:
    """``rank=8``, ``rank=4,8`` and ``rank=range(4,17,4)`` become ``rank.value=...``; mappings may be given new keys.

    ``rank`` is a group (``rank=fixed_alpha``), and Hydra takes no number as the name of a group's option. It refuses
    new keys without a ``+``, but in ``rank.pattern`` and ``method.args`` all of them are the user's.
    """
    return [f"++{argument}" if argument.startswith(_OPEN) else _rank(argument) for argument in arguments]


def _rank(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key.strip() == "rank" and equals and (_NUMBERS.match(value.strip()) or _SWEEPS.match(value.strip())):
        return f"rank.value={value}"
    return argument


def command(config_name: str | None, overrides: Iterable[str]) -> tuple[str, ...]:
    """The arguments that compose a point again, the name of a primary configuration other than ours included."""
    return (*(() if config_name in (None, "config") else ("-cn", config_name)), *overrides)
