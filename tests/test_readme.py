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
from transformers import (
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

README = (ROOT / "README.md").read_text()


def plain(adapter: Path, folder: Path) -> Path:
    """A sparse adapter in PEFT's format, by the command on the page."""
    said = re.search(r"`python (-m peftbench\S+) RUN/adapter DIR`", README)
    assert said is not None
    subprocess.run([sys.executable, *said[1].split(), adapter, folder], check=True, capture_output=True)
    return folder


def python(base: Path, adapter: Path) -> str:
    """The code on the page, with names of these folders."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    code, replaced = re.subn(
        r"^base, adapter = .*$", f"base, adapter = {str(base)!r}, {str(adapter)!r}", code, flags=re.M
    )
    assert replaced == 1
    return code


def check_logits(network: PreTrainedModel, folder: Path, sentences: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """``network`` gives what the predictions of the run in ``folder`` say."""
    found = pd.read_parquet(folder / "predictions.parquet")
    texts = pd.read_csv(sentences).loc[found.id].text.tolist()
    with torch.no_grad():
        logits = network.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(found[["logit_0", "logit_1"]].to_numpy(), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "hira", "sparse_lora"])
def test_an_adapter_is_used_without_peftbench(method, tiny_run, sentences, tmp_path, monkeypatch) -> None:
    base, tokenizer = checkpoint(tmp_path / "base")
    _, folder = carried_out(tiny_run("model=pretrained", f"model.path={base}", f"method={method}"))
    adapter = folder / "adapter"
    if method == "sparse_lora":
        adapter = plain(adapter, tmp_path / "plain")
    monkeypatch.chdir(tmp_path)
    exec(python(base, adapter), {})
    check_logits(AutoModelForSequenceClassification.from_pretrained("reviews"), folder, sentences, tokenizer)


@pytest.mark.parametrize("options", [("method=qlora",), ("method=hira", "method.quantize=nf4")])
def test_an_adapter_of_a_four_bit_base_is_used_on_that(options, tiny_run, sentences, tmp_path, monkeypatch) -> None:
    base, tokenizer = checkpoint(tmp_path / "base")
    record, folder = carried_out(tiny_run("model=pretrained", f"model.path={base}", *options))
    (argument,) = re.findall(r"`(quantization_config=BitsAndBytesConfig\(.*\))`", README)
    code, changed = re.subn(
        r"(from_pretrained\(base, )(.*)\)\n", rf"\1{argument}, \2)\n", python(base, folder / "adapter")
    )
    assert (changed, code.count(".merge_and_unload()")) == (1, 1)
    monkeypatch.chdir(tmp_path)
    names = {"BitsAndBytesConfig": BitsAndBytesConfig, "quantization": record.base["quantization"]}
    exec(code.replace(".merge_and_unload()", ""), names)
    for module in names["model"].modules():
        # On some CPUs bitsandbytes would repack in eval mode, which rounds and is not for layers as narrow as these.
        module.support_avx512bf16_for_cpu = False
    check_logits(names["model"], folder, sentences, tokenizer)
