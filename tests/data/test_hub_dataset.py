"""Any data set of the hub, or what `datasets` saved: names of classes, splits without labels, and each mistake."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from pydantic import ValidationError

from peftbench.data.hub import Hub
from peftbench.data.text import Text
from peftbench.errors import UserError

datasets = pytest.importorskip("datasets")

FEATURES = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})


def split(name: str, count: int, label: int | None = None):
    rows = {"sentence": [f"{name} sentence {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
    return datasets.Dataset.from_dict(rows if label is None else rows | {"label": [label] * count}, FEATURES)


def glue(test: int | None = -1):
    return datasets.DatasetDict(train=split("train", 60), validation=split("dev", 9), test=split("test", 7, test))


def hub(**options) -> Hub:
    return Hub(**{"text_column": "sentence"} | options)


@pytest.mark.parametrize("none", [-1, None])
def test_a_test_split_without_labels_gives_way_to_the_public_validation_split(tmp_path, none):
    parts = glue()
    rows = {"sentence": parts["test"]["sentence"], "label": [none] * 7}
    parts["test"] = datasets.Dataset.from_dict(rows, FEATURES)
    parts.save_to_disk(tmp_path / "my glue")
    dataset = hub(path=str(tmp_path / "my glue"))
    assert dataset.name == "my_glue"
    data = dataset.read()
    assert data.label_names == ("no", "yes")
    assert (data.evaluation.name, list(data.evaluation.texts)) == ("dev", [f"dev sentence {i}" for i in range(9)])
    assert list(data.evaluation.labels) == [i % 2 for i in range(9)]
    assert data.validation.name == "validation (cut from train)"
    assert sorted([*data.train.texts, *data.validation.texts]) == sorted(glue()["train"]["sentence"])
    assert any("test split has no labels" in note for note in data.notes)


def test_splits_with_labels_are_taken_as_published(tmp_path):
    glue(test=1).save_to_disk(tmp_path)
    data = hub(path=str(tmp_path)).read()
    assert [(part.name, len(part.texts)) for part in (data.train, data.validation, data.evaluation)] == [
        ("train", 60),
        ("validation", 9),
        ("test", 7),
    ]
    assert set(data.evaluation.labels) == {1}
    assert data.notes == ("test: no item of 1 of 2 classes (no), so no figure says anything about them",)


def test_rows_without_a_label_are_of_no_class(tmp_path):
    """As in SNLI, where the annotators of some pairs did not agree; in files without names of classes -1 is one."""
    parts = glue(test=1)
    rows = {"sentence": [f"all {i}" for i in range(60)], "label": [(-1, 0, 1)[i % 3] for i in range(60)]}
    parts["train"] = datasets.Dataset.from_dict(rows, FEATURES)
    parts.save_to_disk(tmp_path / "snli")
    data = hub(path=str(tmp_path / "snli")).read()
    assert data.label_names == ("no", "yes")
    assert sorted(data.train.ids) == [i for i in range(60) if i % 3]
    assert [rows["label"][row] for row in data.train.ids] == list(data.train.labels)
    assert "snli (train): 20 rows without a label (-1) left out" in data.notes
    parts["test"] = split("test", 7, -1)
    parts.save_to_disk(tmp_path / "blind")
    assert hub(path=str(tmp_path / "blind")).read().evaluation.name == "dev"
    path = tmp_path / "mine.parquet"
    pd.DataFrame(rows).to_parquet(path)
    assert Text(name="text", path=str(path), text_column="sentence").read().label_names == ("-1", "0", "1")
    parts["train"] = split("train", 60, -1)
    parts.save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match=r"none \(train\): no row has a label \(all are -1\); write"):
        hub(path=str(tmp_path / "none")).read()


def test_public_splits_that_are_not_read_are_noted(tmp_path):
    """MNLI has two validation splits and two of test, none of which is called as one alone is."""
    more = ("validation_matched", "validation_mismatched", "test_matched", "test_mismatched", "unsupervised")
    parts = {name: split(name, 9) for name in more}
    datasets.DatasetDict({"train": split("train", 60), **parts}).save_to_disk(tmp_path)
    data = hub(path=str(tmp_path)).read()
    assert f"not read: {', '.join(more[:4])} and 1 more" in data.notes
    assert data.evaluation.name == "test (own split)"


def test_a_column_of_labels_that_test_lacks_is_none(tmp_path):
    parts = glue()
    parts["test"] = parts["test"].remove_columns("label")
    parts.save_to_disk(tmp_path)
    assert hub(path=str(tmp_path)).read().evaluation.name == "dev"


def test_language_modelling_needs_no_labels(tmp_path):
    glue().save_to_disk(tmp_path)
    data = hub(path=str(tmp_path), task="language_modeling", label_column=None).read()
    assert (data.evaluation.name, len(data.evaluation.texts), data.train.labels) == ("test", 7, None)


def test_one_saved_data_set_is_train(tmp_path):
    split("train", 60).save_to_disk(tmp_path)
    data = hub(path=str(tmp_path)).read()
    assert [len(part.texts) for part in (data.train, data.validation, data.evaluation)] == [43, 5, 12]
    assert data.evaluation.name == "test (own split)"


def test_the_hub_is_asked_for_the_part_that_was_named(monkeypatch, tmp_path):
    asked = []

    def load(repo, config):
        asked.append((repo, config))
        return glue()

    monkeypatch.setattr(datasets, "load_dataset", load)
    dataset = hub(id="nyu-mll/glue", config="cola")
    glue().save_to_disk(tmp_path)
    assert dataset.read().fingerprint == hub(path=str(tmp_path)).read().fingerprint
    assert (dataset.name, asked) == ("glue-cola", [("nyu-mll/glue", "cola")])
    assert hub(id="fancyzhx/ag_news", name="news").name == "news"
    with pytest.raises(UserError, match=r"dataset.text_column=body: ag_news \(train\) has .* write one of: sentence"):
        hub(id="fancyzhx/ag_news", text_column="body").read()


def test_a_data_set_without_train_is_answered(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"prompts": split("prompts", 9)})
    with pytest.raises(UserError, match="dataset=gsm: no train split, but prompts"):
        hub(id="openai/gsm").read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "write dataset.id=OWNER/NAME .* or dataset.path=DIR"),
        ({"id": "https://huggingface.co/datasets/glue"}, "id\n.*match pattern"),
        ({"path": ".", "config": "cola"}, "path is a part already"),
        ({"path": ".", "id": "nyu-mll/glue"}, "id is of the hub, and path is a folder instead: write one of them"),
        ({"path": "."}, "no dataset_dict.json or dataset_info.json there, .* write dataset=text"),
    ],
)
def test_options_are_checked_while_composing(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match=message):
        hub(**options)


def test_what_is_saved_is_not_own_text(tmp_path):
    glue().save_to_disk(tmp_path)
    with pytest.raises(ValidationError, match=r"write dataset=hub dataset.path=DIR"):
        Text(name="text", path=str(tmp_path), text_column="sentence")
    (tmp_path / "train" / "state.json").unlink()
    with pytest.raises(UserError, match=r"dataset.path=.* cannot be read, save it again"):
        hub(path=str(tmp_path)).read()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("tokens", r"column tokens holds \w+ values such as .*a.* and no text; write dataset.text_column=NAME"),
        ("messages", "column messages holds dict values such as .*role.* and no text"),
    ],
)
def test_lists_are_no_text(tmp_path, column, message):
    table = pd.DataFrame({"label": [i % 2 for i in range(20)]})
    table["tokens"] = [["a", str(i)] for i in range(20)]
    table["messages"] = [{"role": "user", "content": str(i)} for i in range(20)]
    table.to_json(tmp_path / "mine.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "mine.parquet")
    for file in ("mine.jsonl", "mine.parquet"):
        with pytest.raises(UserError, match=message):
            Text(name="text", path=str(tmp_path / file), text_column=column).read()


def test_several_labels_an_item_are_answered(tmp_path):
    several = {"sentence": ["a", "b"], "label": [[0, 1], [2]]}
    parts = {name: datasets.Dataset.from_dict(several) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "emotions")
    with pytest.raises(UserError, match=r"emotions \(train\): label holds several labels an item"):
        hub(path=str(tmp_path / "emotions")).read()
    rows = pd.DataFrame({"text": [f"words {i}" for i in range(20)], "label": [[i % 2, i % 3] for i in range(20)]})
    rows.to_json(tmp_path / "mine.json", orient="records")
    with pytest.raises(UserError, match=re.escape("label holds several labels an item ([0, 0]); one is what")):
        Text(name="text", path=str(tmp_path / "mine.json")).read()
