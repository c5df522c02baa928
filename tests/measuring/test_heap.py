"""Freed memory is used again: counted by the pages that the kernel had to give a process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest

from peftbench.measuring import heap

ROUNDS = 8
BLOCK, BLOCKS = 16 * 2**20, 6
"""Together more than glibc ever keeps by itself."""
PROGRAM = f"""
import json, resource
from peftbench.measuring import heap
heap.keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    blocks = [b"1" * {BLOCK} for _ in range({BLOCKS})]

work()
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
PAGES = BLOCKS * BLOCK // 4096

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's allocator")


def run(**variables: str) -> dict[str, object]:
    """What a new process without any setting but these has seen."""
    environment = {key: value for key, value in os.environ.items() if key not in heap.from_environment()}
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=environment | variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@glibc
def test_pages_are_asked_for_once_and_given_back_when_trimmed() -> None:
    found = run()
    assert found["settings"] == {"M_MMAP_THRESHOLD": str(32 * 2**20), "M_TRIM_THRESHOLD": "-1"}
    assert found["again"] < 0.1 * PAGES
    assert found["after_trim"] > 0.9 * PAGES


@glibc
def test_what_the_environment_says_of_the_allocator_counts() -> None:
    default = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
    found = run(**default)
    assert found["settings"] == default
    assert found["again"] > 0.9 * ROUNDS * PAGES


def test_what_is_preloaded_counts_if_it_is_an_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in heap.from_environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("LD_PRELOAD", "/opt/xalt/lib64/libxalt_init.so")
    assert heap.from_environment() == {}
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert heap.from_environment() == {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_set", {})
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    heap.keep_freed_memory()
    heap.trim()
    assert heap.settings() == heap.from_environment()


@pytest.mark.skipif(not heap.jemalloc(), reason="needs jemalloc (libjemalloc2)")
def test_jemalloc_gives_back_when_trimmed_too() -> None:
    found = run(**heap.jemalloc())
    assert found["settings"] == heap.jemalloc()
    assert found["after_trim"] > 0.5 * PAGES


def test_jemalloc_is_asked_for_all_of_its_arenas(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, object]] = []

    def known(name: str) -> Callable[..., int] | None:
        return (lambda *arguments: asked.append((name, arguments[0])) or 0) if name == "mallctl" else None

    monkeypatch.setattr(heap, "_libc", known)
    heap.trim()
    assert asked == [("mallctl", b"arena.4096.purge")]
