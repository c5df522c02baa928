"""What a data set class of one's own may get wrong, said before anything is learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from numbers import Integral
from typing import Any

import numpy as np

from peftbench.data.base import Dataset, Split, TextData
from peftbench.errors import UserError, first_of


def check(dataset: Dataset, data: TextData) -> None:
    """Refuse splits that would be learned or counted wrongly; those of `peftbench.data.assemble` are none.

    Texts are compared to the letter: spacing and case are left to `assemble`, for they cost a second where texts are
    long. Splits of running text may share lines.

    Raises:
        UserError: a split is missing or empty, labels are not places in ``label_names``, ids are no numbers or there
            twice, or a text is in two splits.
    """
    three: dict[str, Any] = {name: getattr(data, name, None) for name in ("train", "validation", "evaluation")}
    if missing := [name for name, split in three.items() if not isinstance(split, Split)]:
        raise UserError(
            f"dataset={dataset.name}: read() gives no {first_of(missing)}: return a TextData of three Splits "
            "(peftbench.data.assemble cuts what a source lacks)"
        )
    for name, split in three.items():
        _check_items(f"dataset={dataset.name}: {name}", split)
        if dataset.kind == "classification":
            _check_labels(f"dataset={dataset.name}: {name}", split, data.label_names)
    if dataset.kind == "classification":
        _check_apart(dataset, three)


def _check_items(where: str, split: Split) -> None:
    if not len(split.texts):
        raise UserError(f"{where} is empty: give the data set more items, or write smaller sizes")
    _check_whole(f"{where} has ids", split.ids, "the row of each item in its source, a whole number")
    if repeated := len(split.ids) - len({*split.ids}):
        raise UserError(
            f"{where} has {repeated:,} ids that another item has too: write the row of each item in its source"
        )


def _check_labels(where: str, split: Split, names: tuple[str, ...]) -> None:
    labels = split.labels
    if labels is None:
        raise UserError(f"{where} has no labels: give each text one, or let kind be language_modeling")
    _check_whole(f"{where} has labels", labels, "the place of each in label_names, from 0")
    if unknown := sorted({*labels} - {*range(len(names))}):
        raise UserError(
            f"{where} has labels that are no places in label_names ({first_of([*map(str, unknown)])}), which has "
            f"{len(names)} names, counted from 0: name every class there"
        )


def _check_whole(what: str, values: Sequence[Any], instead: str) -> None:
    if other := sorted(kind.__name__ for kind in {*map(type, values)} if not issubclass(kind, Integral | np.bool_)):
        raise UserError(f"{what} of type {first_of(other)}: write {instead}")


def _check_apart(dataset: Dataset, three: dict[str, Split]) -> None:
    contents = {name: {*split.contents} for name, split in three.items()}
    for one, other in combinations(three, 2):
        if shared := len(contents[one] & contents[other]):
            raise UserError(
                f"dataset={dataset.name}: {shared:,} texts are in {one} and in {other} too: leave them out of one of "
                "them, as peftbench.data.assemble.labelled does"
            )
