"""JSON lines: a file with a value a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peftbench.errors import UserError


def read(path: Path) -> list[Any]:
    """What stands in each line that is not blank. Not pandas.read_json, which turns what looks like a date into one.

    Raises:
        UserError: a line is no JSON; the message says which.
        UnicodeDecodeError: the file is not UTF-8.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            where = f"{path}: line {number:,}"
            raise UserError(
                f"{where} is no JSON ({error.msg} at column {error.colno:,}); mend it, or get a whole copy"
            ) from None
    return rows


def is_one(path: Path) -> bool:
    """Whether the first line is an object of its own, and more come after it."""
    first, _, rest = path.read_text(encoding="utf-8-sig").lstrip().partition("\n")
    try:
        return isinstance(json.loads(first), dict) and bool(rest.strip())
    except (ValueError, RecursionError):
        return False
