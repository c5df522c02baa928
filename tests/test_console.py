"""A terminal that has not all letters gets all that is printed, and no error."""

from __future__ import annotations

import io
import os
import subprocess
import sys

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
