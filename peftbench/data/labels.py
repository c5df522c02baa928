"""What stands in a column of labels, as classes: cleaned, counted and put in order."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from peftbench.errors import UserError

WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,999})(\.0+)?")
"""A whole number as text; not 007, which is a name, nor one of more digits than Python reads."""

TRUTH = {"true": "True", "1": "True", "false": "False", "0": "False"}
"""Ways to write what is true or false, and the class of each."""


def decoded(value: Any) -> Any:
    """Text that Parquet holds as bytes; what is no text stays bytes."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def is_nested(value: Any) -> bool:
    """Whether it is several values, or bytes."""
    return hasattr(value, "__len__") and not isinstance(value, str)


def cleaned(values: Sequence[Any], rows: Sequence[int], where: str, name: str) -> list[str | int]:
    """Labels as plain strings or integers: ``1.0``, ``True`` and ``"1"`` are 1, ``"positive "`` is ``"positive"``.

    Args:
        rows: where in the table the values stand, from 0.
    Raises:
        UserError: an item has no label, or several.
    """
    import pandas as pd

    labels: list[str | int] = []
    for row, value in zip(rows, map(decoded, values), strict=True):
        if is_nested(value):
            raise UserError(f"{where}: {name} holds several labels an item ({str(value)[:60]}); one is what is learned")
        if pd.isna(value) or not str(value).strip():
            lacking = sum(pd.isna(one) or not str(one).strip() for one in values)
            raise UserError(
                f"{where}: {lacking:,} of {len(values):,} items have no {name}, the first of them in row {row + 1:,}; "
                "give every row a label, or leave the rows out"
            )
        labels.append(_label(value))
    return labels


def _label(value: Any) -> str | int:
    """One file may hold 1 where another, of another format, holds ``"1"`` or ``"1.0"``.

    By its digits and not as a float, which has but 53 bits: numbers of users are longer.
    """
    import numpy as np

    if isinstance(value, int | np.integer | np.bool_) or (
        isinstance(value, float | np.floating) and float(value).is_integer()
    ):
        return int(value)
    text = str(value).strip()
    return int(text.partition(".")[0]) if WHOLE.fullmatch(text) else text


def one_spelling(labels: Collection[str | int]) -> dict[str | int, str | int]:
    """Each of a data set's ``labels`` and its class: itself, or True or False where all are that, written in many ways.

    A CSV holds ``True`` (``TRUE`` of a spreadsheet, ``true``) where JSON and Parquet have a value that is not text, and
    that is 1 here. Beside other labels (``half-true``), or written in one way only, they stay as they are written.
    """
    truth = {label: TRUTH.get(str(label).lower(), "") for label in labels}
    if len(labels) > 2 and all(truth.values()):
        return {**truth}
    return {label: label for label in labels}


def check_classes(values: Sequence[Any], items: int, name: str | None) -> None:
    """Half as many classes as items, or more, are no classes: a number to predict, or a column of ids."""
    if len(values) > max(2, items / 2):
        raise UserError(
            f"dataset.label_column={name}: {len(values):,} different values in {items:,} rows of train are no classes "
            f"({values[0]!r}, {values[1]!r}, ...); name the column that holds them, or put numbers into groups"
        )


def value_order(label: str | int) -> tuple[bool, float, str]:
    """Numbers by value, also those that are written as text (half stars), then all else by its letters."""
    if isinstance(label, int):
        return False, label, str(label)
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    # Of equal numbers (1.1, 1.10) the order must be the same in every process.
    return (False, number, label) if math.isfinite(number) else (True, 0.0, label)
