"""The user's own files: every format, missing splits cut, and each mistake answered by what to write."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError
from tables import dataset, frame, write

from peftbench.data.columns import STEMS
from peftbench.data.text import Text
from peftbench.errors import UserError


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_data(tmp_path, suffix):
    data = dataset(write(frame(), tmp_path / f"mine{suffix}")).read()
    assert data.label_names == ("glad", "sad")
    three = (data.train, data.validation, data.evaluation)
    assert sorted(row for split in three for row in split.ids) == list(range(60))
    for split in three:
        for text, label, row in zip(split.texts, split.labels, split.ids, strict=True):
            assert text == frame().review[row]
            assert data.label_names[label] == frame().mood[row]
    assert [len(split.texts) for split in three] == [43, 5, 12]
    assert list(data.evaluation.ids) == sorted(data.evaluation.ids)
    assert "own split" in data.evaluation.name


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_csv_of_a_spreadsheet_is_read(tmp_path, mark):
    frame().assign(review=lambda table: table.review + ", 1,5; really").to_csv(
        tmp_path / "mine.csv", sep=mark, index=False
    )
    data = dataset(tmp_path / "mine.csv").read()
    assert data.label_names == ("glad", "sad")
    assert all(text.endswith(", 1,5; really") for text in data.train.texts)


def test_a_folder_with_splits_is_taken_as_it_is_but_for_overlap(tmp_path):
    table = frame(30)
    write(table[:20], tmp_path / "train.csv")
    write(table[18:24], tmp_path / "dev.jsonl")
    write(table[22:], tmp_path / "test.parquet")
    data = dataset(tmp_path).read()
    assert sorted(data.train.texts) == sorted(table.review[:18])
    assert sorted(data.validation.texts) == sorted(table.review[18:22])
    assert list(data.evaluation.texts) == list(table.review[22:])
    assert any("2 items left out because their text is also in test" in note for note in data.notes)


def test_splits_are_called_as_datasets_calls_them():
    data_files = pytest.importorskip("datasets.data_files")
    assert {name: list(stems) for name, stems in STEMS.items()} == {
        str(name): keywords for name, keywords in data_files.SPLIT_KEYWORDS.items()
    }


def test_a_file_called_eval_is_evaluated_on_where_there_is_no_test(tmp_path):
    table = frame(30)
    for name, rows in (("training", table[:18]), ("valid", table[18:22]), ("eval", table[22:])):
        write(rows, tmp_path / f"{name}.jsonl")
    data = dataset(tmp_path).read()
    assert sorted(data.train.texts) == sorted(table.review[:18])
    assert list(data.evaluation.texts) == list(table.review[22:])
    write(table[22:25], tmp_path / "test.jsonl")
    data = dataset(tmp_path).read()
    assert list(data.evaluation.texts) == list(table.review[22:25])
    assert "not read: eval.jsonl" in data.notes


def test_tables_of_a_folder_that_are_not_read_are_noted(tmp_path):
    """Of two train splits, or two to validate on, one is read: whoever has both must know."""
    names = (
        "train.csv",
        "train.parquet",
        "Dev.CSV",
        "val.csv",
        "dev.csv",
        "test.csv",
        "test_hard.csv",
        "vocabulary.csv",
    )
    for number, name in enumerate(names):
        frame(90)[number * 10 :][:10].to_csv(tmp_path / name, index=False)
    write(frame(100)[90:], tmp_path / "train.parquet")
    (tmp_path / "test.md").touch()
    data = dataset(tmp_path).read()
    assert "not read: Dev.CSV, test_hard.csv, train.csv, val.csv" in data.notes
    assert sorted(data.train.ids) == list(range(10))
    assert not any("not read" in note for note in dataset(tmp_path / "dev.csv").read().notes)


def test_the_numbered_parts_of_a_table_are_one(tmp_path):
    table = frame(30)
    for number, rows in enumerate((table[:8], table[8:14], table[14:20])):
        write(rows, tmp_path / f"train-0000{number}-of-00003.parquet")
    write(table[20:], tmp_path / "test-00000-of-00001.parquet")
    data = dataset(tmp_path, validation_size=5).read()
    whole = tmp_path / "whole"
    whole.mkdir()
    write(table[:20], whole / "train.parquet")
    write(table[20:], whole / "test.parquet")
    assert data.fingerprint == dataset(whole, validation_size=5).read().fingerprint
    rows = {*data.train.texts, *data.validation.texts}
    part = dataset(tmp_path / "train-00001-of-00003.parquet").read()
    assert {*part.train.texts, *part.validation.texts, *part.evaluation.texts} == rows
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match=r"has 2 of 3 parts \(train-00000-of-00003.parquet, .*\): get the others"):
        dataset(tmp_path).read()


def test_sizes_are_samples_and_too_large_ones_are_noted(tmp_path):
    path = write(frame(), tmp_path / "mine.csv")
    data = dataset(path, train_size=1000, eval_size=6).read()
    assert len(data.train.texts) == 43
    assert len(data.evaluation.texts) == 6
    assert any("dataset.train_size=1000 is more than there is; all 43" in note for note in data.notes)
    whole = dataset(path).read()
    assert set(data.evaluation.ids) < set(whole.evaluation.ids)
    assert dataset(path, validation_size=9).read().evaluation.ids == whole.evaluation.ids


def test_the_split_seed_changes_the_cut_and_the_fingerprint(tmp_path):
    path = write(frame(), tmp_path / "mine.csv")
    marks = [dataset(path, split_seed=seed).read().fingerprint for seed in (0, 0, 1)]
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_what_stands_in_a_csv_stays_as_it_stands(tmp_path, suffix):
    """Numbers that are names, of classes and of texts: no zero is lost, and no two become one."""
    names = ("007", "7", "1.1", "1.10", "True", "NA")
    table = frame().assign(mood=[names[i % 6] for i in range(60)], review=[f"00{i}" for i in range(60)])
    path = tmp_path / f"mine.{suffix}"
    table.to_csv(path, sep="," if suffix == "csv" else "\t", index=False)
    data = dataset(path).read()
    # Equal numbers too are in one order, in every process: classes are numbered by it.
    assert data.label_names == ("1.1", "1.10", "007", "7", "NA", "True")
    assert set(data.train.texts) < set(table.review)


def test_text_that_parquet_holds_as_bytes_is_text(tmp_path):
    table = frame().assign(review=[f"größe {i}".encode() for i in range(60)])
    table["mood"] = [mood.encode() for mood in table.mood]
    data = dataset(write(table, tmp_path / "mine.parquet")).read()
    assert data.label_names == ("glad", "sad")
    assert all(text.startswith("größe ") for text in data.train.texts)
    table = table.assign(review=[b"\xff\xfe"] * 60)
    with pytest.raises(UserError, match="holds bytes values such as"):
        dataset(write(table, tmp_path / "mine.parquet")).read()


def test_classes_that_no_item_is_evaluated_on_are_noted(tmp_path):
    table = frame().assign(mood=["rare" if i < 3 else "glad" if i % 2 else "sad" for i in range(60)])
    write(table, tmp_path / "train.csv")
    write(frame(80)[60:].assign(mood="glad"), tmp_path / "test.csv")
    assert any(
        "no item of 2 of 3 classes (rare, sad), so no figure says anything about them" in note
        for note in dataset(tmp_path).read().notes
    )


def test_classes_that_a_smaller_train_lacks_are_noted(tmp_path):
    names = [f"c{i:02d}" for i in range(20)]
    table = frame(400).assign(mood=[names[i] if i < 20 else "big" for i in range(400)])
    write(table[:-20], tmp_path / "train.csv")
    write(table[-20:], tmp_path / "test.csv")
    data = dataset(tmp_path, train_size=40).read()
    lacking = [name for i, name in enumerate(data.label_names) if i not in data.train.labels]
    shown = f"{', '.join(lacking[:4])} and {len(lacking) - 4} more"
    assert f"train: no item of {len(lacking)} of 21 classes ({shown}), so nothing is learned about them" in data.notes
    assert not any("nothing is learned" in note for note in dataset(write(frame(), tmp_path / "mine.csv")).read().notes)


def test_a_test_split_without_labels_is_left_out(tmp_path):
    write(frame(), tmp_path / "train.csv")
    write(frame(80)[60:][["review"]], tmp_path / "test.csv")
    data = dataset(tmp_path).read()
    assert data.evaluation.name == "test (own split)"
    assert "the public test split has no labels and is left out" in data.notes


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_minus_one_is_a_label_of_test_where_it_is_one_of_train(tmp_path, suffix):
    write(frame().assign(mood=[1 if i % 2 else -1 for i in range(60)]), tmp_path / f"train.{suffix}")
    write(frame(80)[60:].assign(mood=-1), tmp_path / f"test.{suffix}")
    data = dataset(tmp_path).read()
    assert data.label_names == ("-1", "1")
    assert (len(data.evaluation.texts), set(data.evaluation.labels)) == (20, {0})
    write(frame().assign(mood=[i % 2 for i in range(60)]), tmp_path / f"train.{suffix}")
    assert "the public test split has no labels and is left out" in dataset(tmp_path).read().notes


@pytest.mark.parametrize("kind", ["Int64", "float64", "object", "string", "boolean"])
def test_labels_that_are_missing_are_none_whatever_their_type(tmp_path, kind):
    write(frame(), tmp_path / "train.parquet")
    write(frame(80)[60:].assign(mood=pd.Series([None] * 80, dtype=kind)), tmp_path / "test.parquet")
    data = dataset(tmp_path).read()
    assert "the public test split has no labels and is left out" in data.notes


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"train": (0, 60), "test": (0, 60)}, "train that is not also in test: give train .*, or leave test out"),
        (
            {"train": (0, 40), "validation": (40, 60), "test": (40, 60)},
            "validation that is not also in test: give validation texts of its own, or leave validation out",
        ),
        (
            {"train": (0, 40), "validation": (20, 50), "test": (0, 20)},
            "train that is not also in validation: give train texts of its own, or leave validation out",
        ),
        ({"train": (0, 40), "validation": (40, 60), "test": (0, 40)}, "train that is not also in test"),
    ],
)
def test_a_split_that_is_all_in_another_one_is_said(tmp_path, parts, told):
    for name, (first, end) in parts.items():
        write(frame()[first:end], tmp_path / f"{name}.csv")
    with pytest.raises(UserError, match=f"nothing is left of {told}"):
        dataset(tmp_path).read()


def test_unicode_text_of_a_spreadsheet_is_answered(tmp_path):
    frame().to_csv(tmp_path / "mine.csv", index=False, encoding="utf-16")
    with pytest.raises(UserError, match="iconv -f utf-16 -t utf-8"):
        dataset(tmp_path / "mine.csv").read()


def test_json_text_that_looks_like_a_date_stays_text(tmp_path):
    table = frame().assign(date=[f"2020-01-{i % 28 + 1:02d} {i}" for i in range(60)])
    data = dataset(write(table, tmp_path / "mine.jsonl"), text_column="date").read()
    assert set(data.train.texts) < set(table.date)


def test_rows_without_text_are_left_out_and_noted(tmp_path):
    table = frame()
    table.loc[[3, 5], "review"] = ["   ", ""]
    data = dataset(write(table, tmp_path / "mine.csv")).read()
    assert not {3, 5} & {*data.train.ids, *data.validation.ids, *data.evaluation.ids}
    assert any("2 rows without text" in note for note in data.notes)


def test_a_plain_text_file_is_its_lines(tmp_path):
    lines = [f"line {i}, of\u2028some length" for i in range(40)]
    (tmp_path / "corpus.txt").write_text("\ufeff" + "\n\n".join(lines) + "\n", encoding="utf-8")
    options = {"task": "language_modeling", "text_column": "text", "label_column": None}
    data = dataset(tmp_path / "corpus.txt", **options).read()
    assert [*data.train.texts, *data.validation.texts, *data.evaluation.texts] == lines, "running text stays that"
    assert "test (own split): the last 8 of 40 items" in data.notes
    assert "train: 39 blank lines left out" in data.notes, "the end of the file ends a line and begins none"
    with pytest.raises(UserError, match=r"dataset.label_column=label: .* no such column; write one of: text"):
        dataset(tmp_path / "corpus.txt", text_column="text", label_column="label").read()


def test_lines_of_a_corpus_on_both_sides_are_told(tmp_path):
    lines = [f"line {i % 35}" for i in range(40)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines))
    options = {"task": "language_modeling", "text_column": "text", "label_column": None, "validation_size": 1}
    data = dataset(tmp_path / "corpus.txt", **options).read()
    assert "test (own split): the last 8 of 40 items; 5 of them are also before" in data.notes
    assert len(data.evaluation.texts) == 8


def test_language_modelling_needs_no_labels(tmp_path):
    data = dataset(write(frame(), tmp_path / "mine.csv"), task="language_modeling", label_column=None).read()
    assert dataset(tmp_path / "mine.csv", task="language_modeling", label_column=None).kind == "language_modeling"
    assert data.label_names == ()
    assert data.train.labels is None
    assert list(data.train.ids) == sorted(data.train.ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.rename(columns={"review": "body"}), "dataset.text_column=review: .* write one of: body, mood"),
        (lambda t: t.rename(columns={"mood": "sense"}), "dataset.label_column=mood: .* write one of: review, sense"),
        (lambda t: t[:0], "has no rows: write"),
        (
            lambda t: t.assign(mood=t.index / 7),
            "dataset.label_column=mood: 60 different values in 60 rows .* no classes",
        ),
        (lambda t: t.assign(mood="sad"), "one class only .* check dataset.label_column"),
        (lambda t: t.assign(review=""), "has no text; write dataset.text_column"),
        (
            lambda t: t.assign(mood=["", *t.mood[1:]]),
            "1 of 60 items have no mood, the first of them in row 1;",
        ),
        (
            lambda t: t.assign(review=["", " ", *t.review[2:]], mood=[*t.mood[:8], "", *t.mood[9:]]),
            "1 of 58 items have no mood, the first of them in row 9;",
        ),
        (lambda t: t.assign(review="the same"), "nothing can be cut, .* more than once"),
    ],
)
def test_a_bad_table_is_answered(tmp_path, change, message):
    path = write(change(frame()), tmp_path / "mine.csv")
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
        dataset(path).read()


def test_a_label_that_train_lacks_is_answered(tmp_path):
    write(frame(), tmp_path / "train.csv")
    write(frame(8).assign(mood="gald"), tmp_path / "test.csv")
    with pytest.raises(UserError, match="the test split has labels that train lacks: 'gald'"):
        dataset(tmp_path).read()


def test_other_bad_files_are_answered(tmp_path):
    write(frame(), tmp_path / "corpus.csv")
    with pytest.raises(UserError, match=r"no train.* there, but .*; write one"):
        dataset(tmp_path)
    (tmp_path / "mine.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="replace it by a whole copy"):
        dataset(tmp_path / "mine.parquet").read()
    Path(write(frame(), tmp_path / "lines.jsonl")).rename(tmp_path / "lines.json")
    with pytest.raises(UserError, match=r"lines\.json holds JSON lines, an object a line: rename it to lines\.jsonl"):
        dataset(tmp_path / "lines.json").read()
    (tmp_path / "half.json").write_text('[\n{"review": "a"},\n{"rev')
    with pytest.raises(UserError, match=r"half\.json cannot be read, replace it by a whole copy"):
        dataset(tmp_path / "half.json").read()
    for text in ("\n\n".join(["{}"] * 101 + ['{"a": nil}', "{}"]), "\n" * 202 + '{"a": '):
        (tmp_path / "half.jsonl").write_text(text)
        with pytest.raises(UserError, match=r"half\.jsonl: line 203 is no JSON \(Expecting value at column 7\)"):
            dataset(tmp_path / "half.jsonl").read()
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"deep\.json cannot be read, replace it by a whole copy"):
        dataset(tmp_path / "deep.json").read()
    (tmp_path / "mine.docx").write_text("x")
    with pytest.raises(ValueError, match="unknown kind of file; write one of"):
        dataset(tmp_path / "mine.docx")  # while composing: no run is begun
    (tmp_path / "mine.csv.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match=r"mine.csv.gz is packed: unpack it"):
        dataset(tmp_path / "mine.csv.gz")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="is empty"):
        dataset(tmp_path / "empty.csv").read()
    for suffix in ("csv", "tsv", "json", "jsonl"):
        path = Path(write(frame().assign(review="café"), tmp_path / f"spreadsheet.{suffix}"))
        path.write_bytes(path.read_bytes().decode("utf-8").replace("\\u00e9", "é").encode("windows-1252"))
        with pytest.raises(UserError, match="not UTF-8, save it as that: iconv -f windows-1252"):
            dataset(path).read()


@pytest.mark.parametrize("text", ["fine, and short", "fine, though long, and dull"])
@pytest.mark.parametrize("rows", [1, 40])
def test_commas_without_quotes_are_answered(tmp_path, text, rows):
    """pandas would take the first part of each text for the name of its row, and the second for the text."""
    path = tmp_path / "mine.csv"
    plain = [f"plain {i},{i % 2}" for i in range(40 - rows)]
    path.write_text("\n".join(["review,mood", *(f"{text} {i},{i % 2}" for i in range(rows)), *plain]))
    with pytest.raises(UserError, match="more fields than the header; put texts in double quotes"):
        dataset(path).read()
    path.write_text("\n".join(["review,mood", *plain, *(f"{text} {i},{i % 2}" for i in range(rows))]))
    with pytest.raises(UserError, match=r"fields.*; put texts in double quotes"):
        dataset(path).read()


def test_quotes_in_a_tsv_that_quote_nothing_are_text(tmp_path):
    """As in GLUE's files: pandas would join all rows from one such quote to the next."""
    texts = [f'"so {i}' if i % 9 == 0 else f'he said "no" {i}' if i % 9 == 1 else f"plain {i}" for i in range(45)]
    (tmp_path / "mine.tsv").write_text(
        "\n".join(["review\tmood", *(f"{text}\t{i % 2}" for i, text in enumerate(texts))])
    )
    data = dataset(tmp_path / "mine.tsv").read()
    found = [*data.train.texts, *data.validation.texts, *data.evaluation.texts]
    assert sorted(found) == sorted(texts)


@pytest.mark.parametrize("text", ['"so {}', '"he said \\"no\\" {}"'])
def test_quotes_in_a_csv_that_quote_nothing_are_answered(tmp_path, text):
    """pandas would join rows from one such quote to the next, and leave the backslashes of others in the texts."""
    texts = [text.format(i) if i in (9, 30) else f'plain "{i}"' for i in range(45)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["review,mood", *(f"{text},{i % 2}" for i, text in enumerate(texts))]))
    with pytest.raises(UserError, match=r"mine.csv: line \d+: .*; put texts in double quotes"):
        dataset(path).read()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl"])
def test_a_byte_order_mark_is_no_text(tmp_path, suffix):
    path = Path(write(frame(), tmp_path / f"mine.{suffix}"))
    plain = dataset(path).read()
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert dataset(path).read().fingerprint == plain.fingerprint


def test_a_validation_size_that_eats_train_is_answered(tmp_path):
    with pytest.raises(UserError, match=r"dataset.validation_size=50 leaves nothing of the 48"):
        dataset(write(frame(), tmp_path / "mine.csv"), validation_size=50).read()


def test_two_columns_are_pairs(tmp_path):
    """One text may be in many pairs; the same pair twice is the same item."""
    table = frame().assign(reply=[f"reply {i}" for i in range(60)], review=[f"review {i % 5}" for i in range(60)])
    table.loc[[4], "reply"] = " "
    table.loc[[9], ["review", "reply"]] = table.loc[8, ["review", "reply"]].tolist()
    data = dataset(write(table, tmp_path / "mine.csv"), text_column=["review", "reply"]).read()
    three = (data.train, data.validation, data.evaluation)
    assert sorted(row for split in three for row in split.ids) == [i for i in range(60) if i != 4]
    for split in three:
        for first, second, row in zip(split.texts, split.seconds, split.ids, strict=True):
            assert [first, second] == table.loc[row, ["review", "reply"]].tolist()
    assert {8, 9} < set(data.train.ids)
    assert any("1 rows without text left out" in note for note in data.notes)
    write(table[8:9], tmp_path / "test.csv")
    write(table[9:], tmp_path / "train.csv")
    overlap = dataset(tmp_path, text_column=["review", "reply"]).read()
    assert any("train: 1 items left out because their text is also in test" in note for note in overlap.notes)
    other = dataset(
        write(table.assign(reply=table.reply[::-1].values), tmp_path / "o.csv"), text_column=["review", "reply"]
    )
    assert other.read().fingerprint != data.fingerprint
    with pytest.raises(UserError, match=r"dataset.text_column=body: .* write one of: review, mood, reply"):
        dataset(tmp_path / "mine.csv", text_column=["review", "body"]).read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_column": ["a", "b", "c"]}, "write the name of a column, or of two for pairs"),
        ({"text_column": 3}, "write the name of a column, or of two for pairs"),
        ({"text_column": ["a", "b"], "task": "language_modeling", "label_column": None}, "has no pairs; write"),
        ({"path": None}, "write dataset.path=FILE"),
        ({"path": "/no/such"}, "no such file or folder"),
        ({"label_column": None}, "write dataset.label_column=NAME"),
        ({"task": "language_modeling"}, "write dataset.label_column=null"),
        ({"stride": 3}, "stride means nothing"),
        ({"task": "language_modeling", "label_column": None, "stride": 300}, "must be less than max_length"),
    ],
)
def test_options_are_checked_while_composing(tmp_path, options, message):
    path = write(frame(), tmp_path / "mine.csv")
    with pytest.raises(ValidationError, match=message):
        Text(**{"name": "text", "path": path} | options)
