"""The worked example of CONTRIBUTING.md, taken out of the page and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from support import ROOT

from peftbench.record import read_sweep


def block(language: str) -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)
    assert len(found) == 1, language
    return found[0]


def test_the_worked_example_runs(tmp_path: Path, sentences: Path) -> None:
    (tmp_path / "mine_bitfit.py").write_text(block("python"))
    (tmp_path / "own" / "method").mkdir(parents=True)
    yaml = block("yaml").replace("peftbench.methods.bitfit.", "mine_bitfit.")
    (tmp_path / "own" / "method" / "bitfit.yaml").write_text(yaml)
    command = [sys.executable, "-m", "peftbench", "--config-dir", str(tmp_path / "own"), "method=bitfit", "sweep=added"]
    command += ["dataset=text", f"dataset.path={sentences}", "model=tiny", "tracker=none", "trainer.max_steps=4"]
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = read_sweep(tmp_path / "outputs" / "added")
    assert record.status == "ok"
    assert record.metrics["params/adapter"] == biases_in_attention_and_output()
    assert record.metrics["params/head"] == 2 * 32 + 2


def test_the_contract_of_methods_runs_over_it_unasked(tmp_path: Path) -> None:
    for name in ("peftbench", "conf", "sweeps", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "peftbench/methods/bitfit.py").write_text(block("python"))
    (tmp_path / "conf/method/bitfit.yaml").write_text(block("yaml"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "bitfit", "tests/methods/test_contract.py"]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\b1[5-9] passed", done.stdout), done.stdout[-500:]


def biases_in_attention_and_output() -> int:
    # Per layer: query, key, value, attention output dense + norm, output dense + norm, each of 32 entries.
    per_layer = 7 * 32
    return 2 * per_layer
