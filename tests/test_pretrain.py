"""The small causal model: made from text by one command, told apart by its weights, named in records and tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import write_sentences

from peftbench import pretrain
from peftbench.errors import UserError
from peftbench.files import new_mode
from peftbench.models.pretrained import weights_hash
from peftbench.record import read_sweep
from peftbench.report import sweep, view

SIZES = ("--steps=30", "--batch-size=8", "--length=32", "--vocabulary=400", "--width=16", "--layers=1", "--heads=2")
SMALL = (*SIZES, "--held-out=20", "--lr=0.03", "--threads=1")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    """A folder as IMDB's, of generated sentences."""
    folder = tmp_path_factory.mktemp("imdb")
    for seed, name in enumerate(("train", "test")):
        table = pd.read_csv(write_sentences(folder / f"{name}.csv", 240, seed))
        table["text"] = table["text"] + "<br /><br />the end of it"
        table.to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def made(reviews, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("base") / "small"
    assert pretrain.main(["--dataset-path", str(reviews), "--out", str(out), *SMALL]) == 0
    return out


def test_it_has_learned_more_than_how_often_tokens_are(made, reviews) -> None:
    import json

    from transformers import AutoModelForCausalLM, AutoTokenizer

    provenance = json.loads((made / "provenance.json").read_text())
    found = provenance["pretraining"]
    assert found["held_out_perplexity"] < 0.7 * found["held_out_unigram_perplexity"]
    tokenizer = AutoTokenizer.from_pretrained(made)
    text = "The plot & the cäst: superb ✓\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<br />")["input_ids"] != tokenizer("\n")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(made)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert sum(p.numel() for p in model.parameters()) == provenance["parameters"]


def test_the_same_seed_gives_the_same_weights(made, reviews, tmp_path) -> None:
    pretrain.main(["--dataset-path", str(reviews), "--out", str(tmp_path / "again"), *SMALL])
    assert weights_hash(tmp_path / "again") == weights_hash(made)


def test_its_files_are_for_whom_the_umask_says(made) -> None:
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {new_mode()}


def test_unigram_perplexity_is_that_of_the_shares() -> None:
    train, held_out = np.array([0, 0, 1]), np.array([1, 0, 1])
    shares = np.array([3, 2]) / 5
    assert pretrain.unigram_perplexity(train, held_out, 2) == pytest.approx(math.exp(-np.log(shares).mean()))


def test_a_run_on_it_says_what_the_base_is(made, tiny_run, tmp_path) -> None:
    from peftbench.record import Record
    from peftbench.run import execute

    pd.DataFrame({"text": [f"plain words of article {i} , and more" for i in range(40)]}).to_csv(tmp_path / "t.csv")
    base = (
        f"model.path={made}",
        f"dataset.path={tmp_path / 't.csv'}",
        "dataset.label_column=null",
        "dataset.task=language_modeling",
    )
    run = tiny_run("model=imdb_gpt2", "dataset.max_length=32", "trainer.max_steps=2", *base)
    folder = tmp_path / "runs" / run.run_id
    folder.mkdir(parents=True)
    record = Record(run.run_id, "runs", "ok", run.dump(), run.hash, run.axes)
    execute(run, folder, record, lambda *a: None)
    record.write(folder)
    assert record.base["revision"] == weights_hash(made)[:12]
    (shown,) = view.views(sweep.load(tmp_path / "runs"), "lora")
    assert any("not a public one" in warning and "30 steps" in warning for warning in shown.warnings)
    assert next(read_sweep(tmp_path / "runs")).base["random_weights"] is False


def test_errors_say_what_to_write(made, compose, reviews, capsys) -> None:
    assert pretrain.main(["--dataset-path", str(reviews), "--out", str(made)]) == 2
    assert "write another --out" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"python -m peftbench\.pretrain .*--out '/no where'"):
        compose("model=imdb_gpt2", "model.path=/no where")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("--dataset-path=nope", "--dataset-path nope: there is no such file or folder; write the path of an existing"),
        ("--steps=0", "--steps 0: Input should be greater than or equal to 1"),
        ("--lr=-1", "--lr -1.0: Input should be greater than 0"),
        ("--length=0", "--length 0: "),
        ("--vocabulary=256", "--vocabulary 256: "),
        ("--width=15", "--width 15 is no multiple of --heads 2"),
        ("--held-out=0", "--held-out 0: "),
        ("--seed=-1", "--seed -1: "),
        ("--threads=0", "--threads 0: "),
        ("--out=/dev/null/out", "/dev/null/out cannot be made (File exists): write another folder"),
    ],
)
def test_a_wrong_option_is_one_sentence_before_anything_is_done(reviews, tmp_path, capsys, wrong, said) -> None:
    options = ["--dataset-path", str(reviews), "--out", str(tmp_path / "out"), *SMALL, wrong]
    assert pretrain.main(options) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"peftbench: {said}")
    assert (out, err.count("\n"), list(tmp_path.iterdir())) == ("", 1, [])
