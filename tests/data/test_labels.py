"""What stands in a column of labels, as classes."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from tables import dataset, frame, write


def test_numbers_are_classes_in_their_order(tmp_path):
    table = frame().assign(mood=[10.0 if i % 2 else 9.0 for i in range(60)])
    assert dataset(write(table, tmp_path / "mine.parquet")).read().label_names == ("9", "10")


def test_a_label_is_the_same_in_every_format(tmp_path):
    table = frame().assign(mood=[i % 2 for i in range(60)])
    write(table[:40], tmp_path / "train.csv")
    write(table[40:].assign(mood=[str(i % 2) for i in range(20)]), tmp_path / "test.jsonl")
    assert dataset(tmp_path).read().label_names == ("0", "1")


@pytest.mark.parametrize("written", [("True", "False"), ("TRUE", "FALSE"), ("true", "false"), ("1", "0")])
def test_true_is_one_class_in_every_format(tmp_path, written):
    table = frame().assign(mood=[i % 2 == 0 for i in range(60)])
    write(table[:40], tmp_path / "train.jsonl")
    write(table[40:50], tmp_path / "dev.parquet")
    write(table[50:].assign(mood=[written[i % 2] for i in range(10)]), tmp_path / "test.csv")
    data = dataset(tmp_path).read()
    assert data.label_names == (("0", "1") if written == ("1", "0") else ("False", "True"))
    for split in (data.train, data.validation, data.evaluation):
        assert all(
            label == (int(text.split()[-1]) % 2 == 0) for text, label in zip(split.texts, split.labels, strict=True)
        )


@pytest.mark.parametrize("names", [("false", "true"), ("half-true", "true"), ("1", "False", "half", "true")])
def test_what_is_true_stays_as_it_is_written_where_it_is_written_in_one_way(tmp_path, names):
    table = frame().assign(mood=[names[i % len(names)] for i in range(60)])
    assert dataset(write(table, tmp_path / "mine.csv")).read().label_names == names


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_long_numbers_are_classes_by_every_digit(tmp_path, suffix):
    """Ids of users have more bits than a float; those that do not fit into 64 bits are in no Parquet file."""
    ids = [2**53, 2**53 + 1, 2**63 - 1, *([] if suffix == "parquet" else [10**400, 10**400 + 1])]
    table = frame().assign(mood=pd.Series([ids[i % len(ids)] for i in range(60)], dtype=object))
    path = tmp_path / f"mine.{suffix}"
    match suffix:
        case "csv":
            table.assign(mood=[f"{one}.0" if i % 2 else one for i, one in enumerate(table.mood)]).to_csv(path)
        case "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in table.to_dict("records")))
        case _:
            table.to_parquet(path)
    assert dataset(path).read().label_names == tuple(map(str, ids))


def test_numbers_longer_than_python_reads_are_names(tmp_path):
    table = frame().assign(mood=[f"{'9' * 5000}{i % 2}" for i in range(60)])
    assert len(dataset(write(table, tmp_path / "mine.csv")).read().label_names) == 2


def test_numbers_as_text_are_classes_in_their_order(tmp_path):
    table = frame().assign(mood=[("10", "0.5", "nan", "1.5")[i % 4] for i in range(60)])
    assert dataset(write(table, tmp_path / "mine.csv")).read().label_names == ("0.5", "1.5", "10", "nan")
