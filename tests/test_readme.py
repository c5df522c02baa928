"""What README.md says to do with an adapter, taken out of the page and done."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import ROOT, carried_out, checkpoint
from transformers import AutoModelForSequenceClassification

README = (ROOT / "README.md").read_text()


def plain(adapter: Path, folder: Path) -> Path:
    """A sparse adapter in PEFT's format, by the command on the page."""
    said = re.search(r"`python (-m peftbench\S+) RUN/adapter DIR`", README)
    assert said is not None
    subprocess.run([sys.executable, *said[1].split(), adapter, folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("method", ["lora", "hira", "sparse_lora"])
def test_an_adapter_is_used_without_peftbench(method, tiny_run, sentences, tmp_path, monkeypatch) -> None:
    base, tokenizer = checkpoint(tmp_path / "base")
    _, folder = carried_out(tiny_run("model=pretrained", f"model.path={base}", f"method={method}"))
    adapter = folder / "adapter"
    if method == "sparse_lora":
        adapter = plain(adapter, tmp_path / "plain")
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    mine = f"base, adapter = {str(base)!r}, {str(adapter)!r}"
    code, replaced = re.subn(r"^base, adapter = .*$", mine, code, flags=re.M)
    assert replaced == 1
    monkeypatch.chdir(tmp_path)
    exec(code, {})

    found = pd.read_parquet(folder / "predictions.parquet")
    texts = pd.read_csv(sentences).loc[found.id].text.tolist()
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        logits = AutoModelForSequenceClassification.from_pretrained("reviews").eval()(**inputs).logits.numpy()
    np.testing.assert_allclose(found[["logit_0", "logit_1"]].to_numpy(), logits, rtol=1e-3, atol=1e-4)
