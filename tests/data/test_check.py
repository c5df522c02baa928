"""What a data set class of one's own gives, and what is said of it before it is learned from."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from peftbench.data import assemble
from peftbench.data.base import Dataset, Kind, Split, TextData
from peftbench.data.check import check
from peftbench.errors import UserError


def part(first: int, last: int, **other: Any) -> Split:
    rows = range(first, last)
    return Split(
        **{"name": "part", "texts": [f"t {i}" for i in rows], "labels": [i % 2 for i in rows], "ids": rows} | other
    )


GOOD = TextData(part(0, 40), part(40, 50), part(50, 60), ("no", "yes"), "0")


class Mine(Dataset):
    name: str = "mine"
    of: Kind = "classification"

    @property
    def kind(self) -> Kind:
        return self.of

    def read(self) -> TextData:
        return GOOD


def test_what_is_right_passes() -> None:
    check(Mine(), GOOD)
    arrays = part(0, 40, texts=np.array([f"t {i}" for i in range(40)]), labels=np.arange(40) % 2, ids=np.arange(40))
    check(Mine(), replace(GOOD, train=arrays))
    check(Mine(), replace(GOOD, train=replace(arrays, labels=np.arange(40) % 2 == 1)))
    for whole in (part(0, 60), replace(arrays, labels=pd.Series(arrays.labels), texts=pd.Series(arrays.texts))):
        check(Mine(), assemble.labelled(Mine(), whole, None, None, ("no", "yes")))
    pairs = [
        part(*rows, texts=["t"] * 9, seconds=[f"u {i}" for i in range(*rows)]) for rows in ((0, 9), (9, 18), (18, 27))
    ]
    check(Mine(), TextData(*pairs, ("no", "yes"), "0"))


def test_running_text_has_no_labels_and_may_share_lines() -> None:
    lines = part(0, 40, labels=None)
    check(Mine(of="language_modeling"), TextData(lines, lines, lines, (), "0"))
    with pytest.raises(UserError, match="dataset=mine: train has no labels: give each text one, or let kind be"):
        check(Mine(), replace(GOOD, train=lines))
    with pytest.raises(UserError, match="dataset=mine: evaluation is empty: give the data set more items"):
        check(Mine(of="language_modeling"), TextData(lines, lines, part(0, 0), (), "0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation": None}, "read() gives no evaluation: return a TextData of three Splits"),
        ({"validation": part(0, 0)}, "validation is empty: give the data set more items"),
        ({"train": part(0, 40, ids=[[row] for row in range(40)])}, "train has ids of type list: write the row of each"),
        ({"train": part(0, 40, ids=[row / 2 for row in range(40)])}, "train has ids of type float: write the row of"),
        ({"train": part(0, 40, ids=[0] * 40)}, "train has 39 ids that another item has too: write the row of each"),
        ({"train": part(0, 40, labels=["no", "yes"] * 20)}, "train has labels of type str: write the place of each in"),
        ({"train": part(0, 40, labels=[0.0, 0.5] * 20)}, "train has labels of type float: write the place of each in"),
        (
            {"evaluation": part(50, 60, labels=[-1, 2] * 5)},
            "evaluation has labels that are no places in label_names (-1, 2)",
        ),
        ({"label_names": ()}, "label_names (0, 1), which has 0 names, counted from 0: name every class there"),
        ({"validation": GOOD.evaluation}, "10 texts are in validation and in evaluation too: leave them out of one"),
        ({"evaluation": part(38, 60)}, "2 texts are in train and in evaluation too"),
    ],
)
def test_what_is_wrong_is_answered(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(Mine(), replace(GOOD, **change))


@pytest.mark.parametrize("columns", [("texts",), ("labels",), ("texts", "labels", "ids")])
def test_columns_in_another_order_than_their_index_keep_their_pairs(columns: tuple[str, ...]) -> None:
    """As of a table that has been shuffled, or of which rows were left out."""
    frame = pd.DataFrame({"texts": [f"t {i}" for i in range(60)], "ids": range(60)}).sample(frac=1, random_state=0)
    frame["labels"] = frame["ids"] % 2
    given = {name: frame[name] if name in columns else frame[name].to_list() for name in ("texts", "labels", "ids")}
    data = assemble.labelled(Mine(), part(0, 60, **given), None, None, ("no", "yes"))
    for split in (data.train, data.validation, data.evaluation):
        assert list(split.texts) == [f"t {i}" for i in split.ids]
        assert [int(label) for label in split.labels or []] == [i % 2 for i in split.ids]


def test_what_is_read_once_is_kept() -> None:
    made = part(0, 9, texts=(f"t {i}" for i in range(9)), labels=(i % 2 for i in range(9)))
    assert (len(made.texts), len(made.labels or ())) == (9, 9)


def test_what_is_no_data_is_answered() -> None:
    with pytest.raises(UserError, match="read\\(\\) gives no train, validation, evaluation"):
        check(Mine(), (["a"], ["b"]))  # type: ignore[arg-type]  # it is no TextData


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"labels": [0, 1]}, "the part split has 9 texts and 2 labels: give each text one"),
        ({"ids": range(8)}, "the part split has 9 texts and 8 ids"),
        ({"seconds": ["a"]}, "the part split has 9 texts and 1 second texts"),
        (
            {"texts": [None, *"abcdefg", 3.5]},
            "the part split has NoneType, float among its texts: leave such items out",
        ),
        ({"texts": "nine char"}, "the part split has one value for its texts: write a list, with one an item"),
        ({"ids": "123456789"}, "the part split has one value for its ids: write a list"),
        ({"labels": 1}, "the part split has one value for its labels: write a list"),
        ({"seconds": [None] * 9}, "the part split has NoneType among its texts"),
    ],
)
def test_a_split_has_a_text_and_all_else_for_each_item(other: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        part(0, 9, **other)
