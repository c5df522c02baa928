"""Tables: figures are those of the records, settings are what differs by seed only."""

from __future__ import annotations

import io
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from peftbench.errors import UserError
from peftbench.report import figures, show, sweep, table


def test_csv_and_parquet_hold_the_numbers_of_the_records(folder):
    records = [folder.classified(seed=seed) for seed in range(2)] + [
        folder.run("hira", status="oom", reason="too, big")
    ]
    table.write(sweep.load(folder.path))
    read_back = pd.read_csv(folder.path / "results.csv", float_precision="round_trip")
    for frame in (read_back, pd.read_parquet(folder.path / "results.parquet")):
        rows = frame.set_index("run_id")
        for record in records:
            for name, value in record.metrics.items():
                assert rows.loc[record.run_id, name] == value
        failed = rows.loc[records[-1].run_id]
        assert (failed["status"], failed["reason"]) == ("oom", "too, big")
        assert pd.isna(failed["quality/accuracy"])
        assert list(rows.loc[[record.run_id for record in records], "seed"]) == [0, 1, 0]
    text = (folder.path / "results.csv").read_text()
    assert "147456," in text
    assert "147456.0" not in text


def test_setting_has_mean_deviation_and_student_interval(folder):
    values = [folder.classified(seed=seed).metrics["quality/accuracy"] for seed in range(4)]
    folder.run(seed=4, status="failed", reason="x")
    (section,) = sweep.load(folder.path).sections
    row = table.settings_frame(section).iloc[0]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert [row["mean"], row["sd"], row["low"], row["high"]] == pytest.approx(
        [np.mean(values), np.std(values, ddof=1), low, high]
    )
    assert (row["seeds"], row["planned"], row["rank"]) == (4, 5, 8)


def test_one_seed_has_no_interval(folder):
    folder.classified()
    row = table.settings_frame(sweep.load(folder.path).sections[0]).iloc[0]
    assert (row["sd"], row["half"], row["low"]) == (None, None, None)


def test_another_learning_rate_is_another_setting_and_is_shown(folder):
    for lr in (1e-4, 1e-3):
        for seed in range(2):
            folder.classified(seed=seed, lr=lr)
    (section,) = sweep.load(folder.path).sections
    assert section.extras == ("trainer.lr",)
    assert sorted(table.settings_frame(section)["trainer.lr"]) == [1e-4, 1e-3]


def test_other_data_or_precision_is_never_merged(folder):
    splits = {"splits": {"evaluation": {"name": "dev", "size": 400}}}
    folder.classified(seed=0)
    folder.classified(seed=1, data={"fingerprint": "0" * 64, **splits})
    folder.classified(seed=2, environment={"device": "cpu", "precision": "bf16"})
    (section,) = sweep.load(folder.path).sections
    assert [len(setting.runs) for setting in section.settings] == [1, 1, 1]
    assert section.extras == ("data.fingerprint", "precision")


def test_datasets_devices_splits_and_random_weights_have_their_own_tables(folder):
    folder.classified()
    folder.modelled()
    folder.classified("hira", environment={"device": "cuda", "device_name": "H200"})
    folder.classified("dora", data={"splits": {"evaluation": {"name": "test", "size": 400}}})
    folder.classified("ia3", base={"random_weights": True})
    sections = sweep.load(folder.path).sections
    assert len(sections) == 5
    assert {section.key.metric.name for section in sections} == {"quality/accuracy", "quality/perplexity"}


def test_equal_devices_of_one_machine_share_a_table(folder):
    for seed in range(2):
        folder.classified(seed=seed, environment={"device": f"cuda:{seed}", "device_name": "H200", "precision": "bf16"})
    (section,) = sweep.load(folder.path).sections
    assert section.key.device == "cuda (H200)"
    assert len(section.settings[0].runs) == 2


def test_best_first_in_the_direction_of_the_figure(folder):
    for method, nll in (("lora", 3.0), ("hira", 2.5), ("dora", 3.5)):
        folder.modelled(method, nll=nll)
    assert list(table.settings_frame(sweep.load(folder.path).sections[0])["method"]) == ["hira", "lora", "dora"]


def test_a_missing_quality_stays_in_its_read_backand_comes_last(folder):
    folder.classified("hira")
    folder.run("lora", metrics={"quality/accuracy": None, "quality/loss": 1.0})
    (section,) = sweep.load(folder.path).sections
    assert list(table.settings_frame(section)["method"]) == ["hira", "lora"]


def test_a_copied_folder_is_no_further_seed(folder):
    first = folder.classified("lora", 0, accuracy=0.9)
    folder.classified("lora", 1, accuracy=0.7)
    shutil.copytree(folder.path / first.run_id, folder.path / f"{first.run_id}-backup")
    shutil.copytree(folder.path / first.run_id, folder.path / "a-copy")
    loaded = sweep.load(folder.path)
    assert loaded.copies == ("a-copy", f"{first.run_id}-backup")
    ((setting,),) = [section.settings for section in loaded.sections]
    assert [run.axes["seed"] for run in setting.runs] == [0, 1]
    out = io.StringIO()
    show(folder.path, file=out)
    assert f"! Not counted, for another folder holds the same run: a-copy, {first.run_id}-backup" in out.getvalue()


def test_other_base_weights_are_never_merged(folder):
    folder.classified("lora", 0, base={"id": "mine", "weights_sha256": "a" * 64})
    folder.classified("lora", 1, base={"id": "mine", "weights_sha256": "b" * 64})
    (section,) = sweep.load(folder.path).sections
    assert [len(setting.runs) for setting in section.settings] == [1, 1]
    assert section.extras == ("base.weights_sha256",)


def test_what_did_not_finish_is_planned_and_what_ran_elsewhere_is_not(folder):
    for seed in range(2):
        folder.classified("lora", seed)
    folder.classified("lora", 2, environment={"device": "cpu", "precision": "bf16"})
    folder.run("lora", 3, status="failed", reason="no")
    (section,) = sweep.load(folder.path).sections
    assert sorted((len(setting.runs), setting.planned) for setting in section.settings) == [(1, 2), (2, 3)]


def test_a_row_says_what_it_was_measured_on(folder):
    environment = {"device": "cpu", "device_name": "Chip", "precision": "bf16", "threads": 2, "git_commit": "abc"}
    folder.classified("lora", environment=environment, base={"id": "mine", "weights_sha256": "a" * 64})
    (row,) = table.runs_table(sweep.load(folder.path).records).to_pylist()
    assert {name: row[name] for name in ("device", "precision", "environment.threads", "environment.git_commit")} == {
        "device": "cpu (Chip)",
        "precision": "bf16",
        "environment.threads": "2",
        "environment.git_commit": "abc",
    }
    assert (row["base.id"], row["base.weights_sha256"], row["data.fingerprint"]) == ("mine", "a" * 64, "f" * 64)


def test_unreadable_records_are_named(folder):
    folder.classified()
    for name in ("at-work", "damaged"):
        (folder.path / name).mkdir()
    (folder.path / "at-work" / "config.yaml").write_text("a: 1")
    (folder.path / "damaged" / "record.json").write_text("{")
    assert sweep.load(folder.path).unreadable == ("at-work", "damaged")


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        sweep.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no run has left a record"):
        sweep.load(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0, "0"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (999.6, "1,000"),
        (1234567, "1,234,567"),
        (0.01234, "0.0123"),
    ],
)
def test_numbers(value, text):
    assert figures.number(value) == text


def test_one_unit_a_column():
    assert figures.scale("bytes", [512, 5_300_000, None]) == (1e6, "MB")
    assert figures.scale("count", []) == (1.0, "")
    accuracy, perplexity, loss = figures.QUALITY[:3]
    assert [figures.change(one, -0.0123) for one in (accuracy, perplexity, loss)] == ["−1.23", "−1.23%", "−0.0123"]


def test_a_perplexity_of_hundreds_of_digits_is_short():
    perplexity = figures.QUALITY[1]
    shown = [figures.score(perplexity, value) for value in (23.857, 999_999, 1e6, math.exp(300))]
    assert shown == ["23.86", "999,999.00", "1e+06", "1.94e+130"]
    assert figures.change(perplexity, math.exp(300)) == "+1.94e+132%"
