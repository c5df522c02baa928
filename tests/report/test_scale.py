"""What grows with a sweep and what does not: rows, bytes and files read are bounded, whatever the number of records."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from peftbench.bench.suite.report import generate
from peftbench.report import __main__ as command
from peftbench.report import baseline, page, sweep, view

RECORDS = 3000


@pytest.fixture
def large(tmp_path):
    generate(tmp_path / "large", RECORDS)
    return tmp_path / "large"


def test_a_large_sweep_is_aggregated(large, monkeypatch, capsys):
    opened = []
    answers = baseline._read
    monkeypatch.setattr(view, "SHOWN", 40)
    monkeypatch.setattr(page, "RUNS", 150)
    monkeypatch.setattr(baseline, "_read", lambda path, metric: opened.append(path) or answers(path, metric))
    assert command.main([str(large)]) == 0
    text = (large / "report.html").read_text()
    assert text.count('<tr id="s0-') == 40
    assert text.count('<tr id="run-') == 150
    assert "150 of 3,000 runs" in text
    assert "The 40 of 600 settings" in text
    assert len(text) < 700_000
    assert len(opened) == len(set(opened)) <= 2 * 40 * 5
    printed = capsys.readouterr().out
    assert printed.count("hira") + printed.count("lora") < 100
    assert "60 of 3,000 runs did not finish" in printed
    rows = pd.read_csv(large / "results.csv")
    assert len(rows) == RECORDS
    assert (rows["status"] == "failed").sum() == RECORDS / 50


def test_rows_that_are_left_out_change_no_test(tmp_path):
    """Only the correction is over the rows shown: a baseline that is off the page is a baseline still."""
    generate(tmp_path / "small", 400)
    (section,) = sweep.load(tmp_path / "small").sections
    shown = view.best(section, 12)
    all_ = dict(zip(map(id, section.settings), baseline.compare(tmp_path / "small", section, "lora"), strict=True))
    for setting, one in zip(shown, baseline.compare(tmp_path / "small", section, "lora", shown), strict=True):
        other = all_[id(setting)]
        assert (one.against, one.p, one.change) == (other.against, other.p, other.change)


SCRIPT = """
import os, sys
from peftbench.report import __main__ as command, table

parent, write = os.getpid(), table.write


def watched(one):
    if sys.argv[2] == "killed" and os.getpid() != parent:
        os._exit(3)
    print("parent" if os.getpid() == parent else "child", file=sys.stderr)
    write(one)


table.write, command.FEW = watched, 10
sys.exit(command.main([sys.argv[1]]))
"""


@pytest.mark.parametrize(("fault", "writer"), [("none", "child"), ("killed", "parent")])
def test_a_long_table_is_written_in_a_process_of_its_own(tmp_path, fault, writer):
    generate(tmp_path / "large", 60)
    command = [sys.executable, "-c", SCRIPT, tmp_path / "large", fault]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == [writer]
    assert len(pd.read_csv(tmp_path / "large" / "results.csv")) == 60
