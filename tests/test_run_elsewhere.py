"""A run on a device other than the CPU: nothing is left behind on the CPU, and no step waits for the device.

The device is made up (`elsewhere`), so that this is known on machines without a GPU too.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from support import options, pruning, write_corpus
from test_run import CONTEXTUAL, MEASURED, carried_out
from torch.utils import backend_registration

from peftbench.context import Context

STEPS = 12
# bitsandbytes makes its weights of a class of its own, and PEFT indexes AdaLoRA's by lists: neither works on a device
# that Python makes. `peft` is any of the others.
METHODS = [name for name in options("method") if name not in ("qlora", "adalora", "peft")]
RUNS = [(f"method={name}",) for name in METHODS]
RUNS += [("method=sparse_lora", f"sparsity={name}") for name in pruning()]
RUNS += [
    ("model.architecture=gpt2", "method=hira", "method.targets=all-linear"),
    ("model.architecture=distilbert", "method=lora", "trainer.gradient_checkpointing=true"),
    CONTEXTUAL,
    ("dataset=wikitext2", "model.architecture=gpt2", "method=lora"),
    ("dataset=wikitext2", "model.architecture=bert", "method=full"),
]
DECIDING = {"magnitude": 1, "l1": 1, "topk": 1, "contextual": 3}
"""Steps after which numbers of the device decide: what is pruned; ratios, and twice later which channels."""


@pytest.fixture(scope="module")
def apart():
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices that are made in Python")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def _elsewhere(run):
    import elsewhere

    return elsewhere.carried_out(run)


@pytest.mark.parametrize("what", RUNS, ids=" ".join)
def test_a_run_computes_there_what_it_does_on_the_cpu(
    apart: ProcessPoolExecutor, tiny_run, tmp_path, monkeypatch: pytest.MonkeyPatch, what: tuple[str, ...]
) -> None:
    corpus = write_corpus(tmp_path / "corpus")

    def configured(folder: str):
        data = ("dataset.max_length=32", f"dataset.path={corpus}") if "dataset=wikitext2" in what else ()
        return tiny_run(*what, *data, f"trainer.max_steps={STEPS}", f"output_dir={tmp_path / folder}")

    there, waits = apart.submit(_elsewhere, configured("there")).result(timeout=240)
    monkeypatch.setattr(Context, "own_dropout", False)  # which draws other numbers
    here, _ = carried_out(configured("here"))
    same = {key: value for key, value in here.metrics.items() if not key.startswith(MEASURED)}
    assert {key: there.get(key) for key in same} == pytest.approx(same, rel=1e-4, abs=1e-6)
    assert len(waits) == STEPS
    sparsity = configured("there").dump()["sparsity"]["name"]
    assert sum(count > 0 for count in waits) == DECIDING.get(sparsity, 0)


def test_the_device_notices_what_is_left_on_the_cpu_and_what_it_is_asked(apart: ProcessPoolExecutor) -> None:
    mixed, waits = apart.submit(_misused).result(timeout=60)
    assert mixed.startswith("add: tensors of both devices")
    assert waits == {"_local_scalar_dense": 1, "_to_copy": 1, "index": 1}


def _misused() -> tuple[str, dict[str, int]]:
    import elsewhere

    with elsewhere.Device() as device:
        ones = torch.ones(3, device=elsewhere.DEVICE)
        assert float((ones.to(elsewhere.DEVICE) + 1).sum()) == 6
        assert ones.cpu().tolist() == [1, 1, 1]
        assert ones[ones > 0].shape == (3,)
        with pytest.raises(RuntimeError) as raised:
            ones + torch.ones(3)
    return str(raised.value), dict(device.waits)
