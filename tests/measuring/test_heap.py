"""Freed memory is used again: counted by the pages that the kernel had to give a process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from peftbench.measuring import heap

ROUNDS = 8
BLOCK = 48 * 2**20
PROGRAM = f"""
import json, resource, torch
from peftbench.measuring import heap
heap.keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    # More than glibc ever keeps by itself, in one block and in small ones.
    torch.ones({BLOCK}, dtype=torch.uint8)
    [torch.ones({BLOCK // 256}, dtype=torch.uint8) for _ in range(512)]

work()
before = faults()
for _ in range({ROUNDS}):
    work()
again = faults() - before
heap.trim()
before = faults()
work()
print(json.dumps({{"again": again, "after_trim": faults() - before, "settings": heap.settings()}}))
"""
HELD, TOUCHED = 2 * BLOCK // 4096, 3 * BLOCK // 4096
"""Pages that a round needs at most at a time, and that it needs where nothing is used again."""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's allocator")


def run(**variables: str) -> dict[str, object]:
    """What a new process without any setting but these has seen."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(heap.VARIABLES)}
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=environment | variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@glibc
def test_pages_are_asked_for_once_and_given_back_when_trimmed() -> None:
    found = run()
    assert found["settings"] == {"M_MMAP_MAX": "0", "M_TRIM_THRESHOLD": "-1"}
    assert found["again"] < 0.1 * HELD
    assert found["after_trim"] > 0.9 * HELD


@glibc
def test_what_the_environment_says_of_the_allocator_counts() -> None:
    found = run(MALLOC_TOP_PAD_="131072")
    assert found["settings"] == {"MALLOC_TOP_PAD_": "131072"}
    assert found["again"] > 0.9 * ROUNDS * TOUCHED


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_set", {})
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    heap.keep_freed_memory()
    heap.trim()
    assert heap.settings() == heap.from_environment()
