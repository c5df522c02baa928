"""Kernels that oneDNN keeps for shapes seen once are bounded, in bytes that the allocator counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.training.primitives import KEPT, VARIABLES, bound_caches

SHAPES = 3 * KEPT
PROGRAM = """
import ctypes, json, os, sys
from peftbench.training.primitives import VARIABLES, bound_caches
for name in VARIABLES:
    os.environ.pop(name, None)
if sys.argv[1] == "bounded":
    bound_caches()
import torch
size_t = ctypes.c_size_t
class Info(ctypes.Structure):
    _fields_ = [(str(i), size_t) for i in range(7)] + [("used", size_t), ("free", size_t), ("top", size_t)]
info = ctypes.CDLL(None).mallinfo2
info.restype = Info
weight = torch.ones(64, 64, dtype=torch.bfloat16)
def multiply(rows):
    torch.nn.functional.linear(torch.ones(rows, 64, dtype=torch.bfloat16), weight)
multiply(1)
before = info().used
for rows in range(2, 2 + int(sys.argv[2])):
    multiply(rows)
print(json.dumps(info().used - before))
"""


def growth(how: str) -> int:
    """Bytes still in use after products of `SHAPES` shapes, in a fresh process."""
    program = [sys.executable, "-c", PROGRAM, how, str(SHAPES)]
    root = Path(__file__).resolve().parents[2]
    return int(json.loads(subprocess.run(program, cwd=root, capture_output=True, text=True, check=True).stdout))


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's counters")
def test_kernels_of_shapes_no_longer_used_are_let_go() -> None:
    unbounded = growth("unbounded")
    if unbounded < SHAPES * 50_000:
        pytest.skip("products are computed without kept kernels here")
    assert growth("bounded") < 0.5 * unbounded


def test_what_the_environment_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = VARIABLES
    monkeypatch.setenv(first, "7")
    monkeypatch.setenv(second, "")
    monkeypatch.delenv(second)
    bound_caches()
    assert (os.environ[first], os.environ[second]) == ("7", str(KEPT // 2))


STEPS = """
import torch
from peftbench.bench.suite.contextual import enter_sparse
from peftbench.bench.workloads import MINILM, Case
from peftbench.context import prepare_process
from peftbench.sparsity.contextual import Contextual
prepare_process(Contextual.products)
contender, _ = enter_sparse(Case(MINILM, "attention", "cpu"))
for _ in range(3):
    contender.step()
print("now", flush=True)
contender.step()
"""


def test_all_kernels_of_a_step_are_kept_also_where_its_blocks_differ_in_width() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"ONEDNN_VERBOSE": "2"}
    root = Path(__file__).resolve().parents[2]
    program = [sys.executable, "-c", STEPS]
    done = subprocess.run(program, cwd=root, env=environment, capture_output=True, text=True, check=True)
    made = [line for line in done.stdout.partition("\nnow\n")[2].splitlines() if ",create:" in line]
    if len(made) < 100:
        pytest.skip("oneDNN computes few products here: bf16 is not native")
    assert not [line for line in made if "cache_miss" in line]
